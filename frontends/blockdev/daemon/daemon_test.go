package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also the program that goes to the background: its arguments are
// a case and a file.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "ready" && os.Args[1] != "failed" && os.Args[1] != "dead" {
		os.Exit(m.Run())
	}
	err := Run(false, os.Args[2], func(text string) { fmt.Println("printed:", text) }, func(ready func(string)) error {
		switch os.Args[1] {
		case "failed":
			return errors.New("no\nway")
		case "dead":
			os.Exit(7)
		}
		fmt.Println("in the log")
		ready("/dev/thing0")
		time.Sleep(100 * time.Millisecond)
		dir, _ := os.Getwd()
		fmt.Println("serves in", dir, "background:", InBackground())
		return nil
	})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestRun(t *testing.T) {
	for name, want := range map[string]string{
		"ready":  "printed: /dev/thing0\n",
		"failed": "error: no way\n",
		"dead":   "error: the background process ended without a word (exit status 7): look at --logfile\n",
	} {
		log := filepath.Join(t.TempDir(), "log")
		out, err := exec.Command(os.Args[0], name, log).CombinedOutput()
		if string(out) != want || (err == nil) != (name == "ready") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if name != "ready" {
			continue
		}
		deadline := time.Now().Add(10 * time.Second)
		for text := ""; !strings.Contains(text, "serves in / background: false"); {
			b, _ := os.ReadFile(log)
			if text = string(b); time.Now().After(deadline) {
				t.Fatalf("log: %q", text)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if out, err := exec.Command(os.Args[0], "ready", "/nowhere/log").CombinedOutput(); err == nil || !strings.Contains(string(out), "--logfile") {
		t.Errorf("a log file that cannot be written: %s", out)
	}
}

func TestStates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	t.Setenv(stateEnv, dir)
	type state struct {
		Image string
		PID   int
	}
	names := []string{"a", "pool/image@snap", "..", "x.json"}
	for i, name := range names {
		for pid := range 3 {
			if err := SaveState("thing", name, state{name, i*10 + pid}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := SaveState("other", "a", 5); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(StatePath("thing", "broken"), []byte("{"), 0o666)
	var warnings []error
	all := LoadStates[state]("thing", func(err error) { warnings = append(warnings, err) })
	if len(all) != len(names) || len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "thing-broken.json") {
		t.Errorf("%v, %v", all, warnings)
	}
	for i, name := range names {
		if s := all[name]; s == nil || s.Image != name || s.PID != i*10+2 {
			t.Errorf("%s: %v", name, s)
		}
		for range 2 {
			if err := RemoveState("thing", name); err != nil {
				t.Error(err)
			}
		}
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	t.Setenv(stateEnv, "/proc/nowhere")
	if err := SaveState("thing", "a", 1); err == nil || !strings.Contains(err.Error(), stateEnv) {
		t.Errorf("%v", err)
	}
}
