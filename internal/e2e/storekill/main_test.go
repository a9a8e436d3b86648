package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"vitastor/internal/meta"
)

// TestMain lets the test binary be the child process, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		seed, _ := strconv.ParseUint(os.Args[3], 10, 64)
		exitOn(writeUntilKilled(os.Args[2], seed, os.Stdout))
	}
	os.Exit(m.Run())
}

func TestKill9LosesNothing(t *testing.T) {
	for _, csum := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "osd.img")
		if err := format(file, 128<<20, csum); err != nil {
			t.Fatal(err)
		}
		if err := rounding(file, 3); err != nil {
			t.Error(err)
		}
	}
}

// TestVerifyNotices breaks what is compared: the check must be able to fail.
func TestVerifyNotices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "osd.img")
	if err := format(file, 128<<20, false); err != nil {
		t.Fatal(err)
	}
	a := newAcks()
	if _, err := writeAndKill(file, 3e8, a); err != nil {
		t.Fatal(err)
	}
	for p := range a.newest {
		a.newest[p]++
		a.newest[p] += 1000 // "acknowledged" but never written
		break
	}
	if _, err := verify(file, a); err == nil {
		t.Error("a lost write was not noticed")
	}
	var p place
	b := make([]byte, granule)
	p.fill(b, 5)
	b[2000]++
	if _, err := p.check(b); err == nil {
		t.Error("a torn block was not noticed")
	}
	var ack [2 * ackBytes]byte
	putAck(ack[:], p, 2)
	putAck(ack[ackBytes:], p, meta.Version(1))
	if _, err := newAcks().read(bufio.NewReader(bytes.NewReader(ack[:]))); err == nil {
		t.Error("versions going backwards were not noticed")
	}
}
