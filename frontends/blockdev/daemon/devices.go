package daemon

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Device is what `ls` tells of one: the options it was mapped with, pid and so
// on.
type Device = map[string]any

// PrintDevices prints what `ls` has found, by the path of the device: one JSON
// object, or for people (spec frontends.md §1.4).
func PrintDevices(out io.Writer, asJSON bool, found map[string]Device) error {
	if asJSON {
		text, err := json.Marshal(found)
		if err == nil {
			_, err = fmt.Fprintf(out, "%s\n", text)
		}
		return err
	}
	for _, path := range slices.SortedFunc(maps.Keys(found), byNumber) {
		fmt.Fprintln(out, path)
		for _, key := range slices.Sorted(maps.Keys(found[path])) {
			fmt.Fprintf(out, "%s: %v\n", key, found[path][key])
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
	}
	return nil
}

// byNumber orders /dev/x2 before /dev/x10.
func byNumber(a, b string) int {
	name, n := numbered(a)
	other, m := numbered(b)
	return cmp.Or(strings.Compare(name, other), cmp.Compare(n, m), strings.Compare(a, b))
}

// numbered cuts the number at the end of a path off; -1 = there is none.
func numbered(path string) (name string, n int) {
	name = strings.TrimRight(path, "0123456789")
	n, err := strconv.Atoi(path[len(name):])
	if err != nil {
		return path, -1
	}
	return name, n
}
