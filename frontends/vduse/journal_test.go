package vduse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"vitastor/frontends/blockdev/daemon"
)

func journalIn(t testing.TB) *journal {
	t.Helper()
	t.Setenv("VITASTOR_RUN_DIR", t.TempDir())
	j, err := openJournal("a")
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJournal(t *testing.T) {
	j := journalIn(t)
	if served("b") || !served("a") {
		t.Error("who is served is not known")
	}
	if _, err := openJournal("a"); !errors.Is(err, errServed) {
		t.Errorf("the journal of a server that lives: %v", err)
	}
	if err := j.load(); !errors.Is(err, errNoTrace) {
		t.Errorf("an empty journal: %v", err)
	}
	if err := j.create(3, 128); err != nil {
		t.Fatal(err)
	}
	j.setStatus(15)
	j.setFeatures(1 << 33)
	j.setCapacity(77)
	for i := range 3 {
		area := j.area(i)
		area[0], area[len(area)-1] = byte(i+1), byte(i+10)
	}
	j.close()
	if served("a") {
		t.Error("a journal that was closed has a server")
	}
	j, err := openJournal("a")
	if err == nil {
		err = j.load()
	}
	if err != nil {
		t.Fatal(err)
	}
	if j.queues != 3 || j.size != 128 || j.status() != 15 || j.features() != 1<<33 || j.capacity() != 77 {
		t.Errorf("%+v, status %d, features %#x, capacity %d", j, j.status(), j.features(), j.capacity())
	}
	for i := range 3 {
		if area := j.area(i); area[0] != byte(i+1) || area[len(area)-1] != byte(i+10) {
			t.Errorf("area %d: %d %d", i, area[0], area[len(area)-1])
		}
	}
	j.forget()
	if bytes.ContainsFunc(j.memory[journalHead:], func(r rune) bool { return r != 0 }) || j.queues != 3 || j.status() != 15 {
		t.Error("something is not forgotten, or too much is")
	}
	// Another device of the same name.
	if err := errors.Join(daemon.SaveState(kind, "a", state{Image: "x"}), j.create(1, 16)); err != nil || j.status() != 0 || j.capacity() != 0 {
		t.Errorf("%v, status %d", err, j.status())
	}
	if err := j.remove("a"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(daemon.StateDir()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestJournalRemoved: the file may be removed between opening and locking it.
func TestJournalRemoved(t *testing.T) {
	j := journalIn(t)
	path := j.file.Name()
	if !current(j.file, path) {
		t.Error("a journal is not current")
	}
	os.Remove(path)
	if current(j.file, path) {
		t.Error("a removed journal is current")
	}
	k, err := openJournal("a")
	if err != nil || current(j.file, path) || !current(k.file, path) {
		t.Errorf("the next journal is not another file: %v", err)
	}
	k.close()
	j.close()
}

func TestBadJournals(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		want  string
	}{
		"empty":       {func(b []byte) []byte { return nil }, "no journal"},
		"short":       {func(b []byte) []byte { return b[:4000] }, "no journal"},
		"cut":         {func(b []byte) []byte { return b[:len(b)-1] }, "no journal"},
		"long":        {func(b []byte) []byte { return append(b, 0) }, "no journal"},
		"magic":       {func(b []byte) []byte { b[0]++; return b }, "no journal"},
		"version":     {func(b []byte) []byte { b[journalVersions]++; return b }, "version 2"},
		"no queues":   {func(b []byte) []byte { b[journalQueues] = 0; return b }, "0 queues"},
		"many queues": {func(b []byte) []byte { b[journalQueues] = 65; return b }, "65 queues"},
		"size":        {func(b []byte) []byte { binary.NativeEndian.PutUint32(b[journalSize:], 4096); return b }, "4096 requests"},
	} {
		j := journalIn(t)
		if err := j.create(2, 64); err != nil {
			t.Fatal(err)
		}
		path := j.file.Name()
		j.close()
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, c.spoil(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if j, err = openJournal("a"); err != nil {
			t.Fatal(err)
		}
		if err := j.load(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		j.close()
	}
	t.Setenv("VITASTOR_RUN_DIR", "/proc/nowhere")
	if _, err := openJournal("a"); err == nil || !strings.Contains(err.Error(), "VITASTOR_RUN_DIR") {
		t.Errorf("a folder that cannot be made: %v", err)
	}
}

// FuzzJournal: a file of anybody is refused, or it is a journal of its size.
func FuzzJournal(f *testing.F) {
	head := make([]byte, journalHead)
	binary.NativeEndian.PutUint64(head, journalMagic)
	head[journalVersions], head[journalQueues], head[journalSize] = 1, 1, 16
	f.Add(head, uint16(areaBytes(16)))
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, head []byte, more uint16) {
		j := journalIn(t)
		defer j.close()
		if _, err := j.file.Write(append(head, make([]byte, more)...)); err != nil {
			t.Fatal(err)
		}
		if err := j.load(); err != nil {
			return
		}
		for i := range j.queues {
			area := j.area(i)
			area[len(area)-1] = 1
		}
		j.forget()
	})
}
