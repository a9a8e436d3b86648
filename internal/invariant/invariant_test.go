package invariant

import (
	"errors"
	"testing"
)

func violation(f func()) (text string) {
	defer func() {
		if v, ok := recover().(Violation); ok {
			text = v.Text
		}
	}()
	f()
	return ""
}

func TestMust(t *testing.T) {
	if got := violation(func() { Must(true, "x") }); got != "" {
		t.Errorf("Must(true) panicked: %s", got)
	}
	if got := violation(func() { Must(false, "x") }); got != "x" {
		t.Errorf("Must(false) = %q", got)
	}
	if got := violation(func() { Fail("osd %d", 3) }); got != "osd 3" {
		t.Errorf("Fail = %q", got)
	}
	if n := testing.AllocsPerRun(100, func() { Must(true, "x") }); n != 0 {
		t.Errorf("Must allocates %v", n)
	}
}

func TestCheckAndSometimesFollowTheBuild(t *testing.T) {
	got := violation(func() { Check(func() error { return errors.New("bad") }) })
	if Enabled && got != "bad" {
		t.Errorf("Check in a test build = %q", got)
	}
	if !Enabled && got != "" {
		t.Errorf("Check ran in a production build")
	}
	Sometimes("a path")
	if Enabled != (Reached()["a path"] == 1) {
		t.Errorf("Reached = %v, enabled %v", Reached(), Enabled)
	}
}
