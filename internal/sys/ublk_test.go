package sys

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestMapSparse(t *testing.T) {
	b, err := MapSparse(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	b[0], b[1<<29] = 1, 2
	if b[1] != 0 || Address(b)%4096 != 0 || Address(b[4096:]) != Address(b)+4096 {
		t.Errorf("%d at %#x", b[1], Address(b))
	}
	Unmap(b)
}

func TestAlive(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if !Alive(os.Getpid()) || !Alive(cmd.Process.Pid) || Alive(0) || Alive(-1) {
		t.Error("who is alive?")
	}
	stdin.Close()
	for began := time.Now(); Alive(cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("a process that has ended, and was not waited for, seems alive")
		}
	}
	cmd.Wait()
	for stat, want := range map[string]bool{"1 (a) b) Z 1": true, "1 (Z) S 1": false, "1 (x) X": true, "1 (x)": false, "": false} {
		if ended([]byte(stat)) != want {
			t.Errorf("%q", stat)
		}
	}
}
