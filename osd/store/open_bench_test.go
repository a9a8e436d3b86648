package store

import "testing"

func BenchmarkRestart(b *testing.B) {
	r := newRig(b)
	for b.Loop() {
		r.restart()
	}
}
