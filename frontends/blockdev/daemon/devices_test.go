package daemon

import (
	"bytes"
	"testing"
)

func TestPrintDevices(t *testing.T) {
	found := map[string]Device{"/dev/x10": {"image": "b", "pid": 7}, "/dev/x2": {"image": "a"}, "/dev/vda": {"dead": true},
		"/dev/x99999999999999999999": {}}
	var text, j, none bytes.Buffer
	PrintDevices(&text, false, found)
	if want := "/dev/vda\ndead: true\n\n/dev/x2\nimage: a\n\n/dev/x10\nimage: b\npid: 7\n\n/dev/x99999999999999999999\n\n"; text.String() != want {
		t.Errorf("%q", text.String())
	}
	delete(found, "/dev/x99999999999999999999")
	PrintDevices(&j, true, found)
	if want := `{"/dev/vda":{"dead":true},"/dev/x10":{"image":"b","pid":7},"/dev/x2":{"image":"a"}}` + "\n"; j.String() != want {
		t.Errorf("%q", j.String())
	}
	if err := PrintDevices(&none, true, map[string]Device{}); err != nil || none.String() != "{}\n" {
		t.Errorf("%q, %v", none.String(), err)
	}
}
