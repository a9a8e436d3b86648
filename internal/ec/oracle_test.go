package ec

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oracleStripe makes the chunks of testdata/oracle.c; parity is still empty.
func oracleStripe(k, m int) [][]byte {
	const chunkBytes = 1024
	chunks := newMatrix(k+m, chunkBytes)
	x := uint32(k*100 + m)
	for _, chunk := range chunks[:k] {
		for j := range chunk {
			x = x*1664525 + 1013904223
			chunk[j] = byte(x >> 24)
		}
	}
	return chunks
}

func checksum(chunks [][]byte) uint64 {
	h := fnv.New64a()
	for _, chunk := range chunks {
		h.Write(chunk)
	}
	return h.Sum64()
}

// ourSums is what oracle.c prints, computed by this package.
func ourSums(t *testing.T) string {
	var out strings.Builder
	for k := 1; k <= 20; k++ {
		for m := 1; m <= 8; m++ {
			c := mustNew(t, ReedSolomon, k, m)
			chunks := oracleStripe(k, m)
			must(t, c.Encode(chunks[:k], chunks[k:]))
			parity := checksum(chunks[k:])
			var have, want RoleSet
			for r := range k + m {
				if r < min(k, m) {
					want.Add(r)
					clear(chunks[r])
				} else {
					have.Add(r)
				}
			}
			must(t, c.Reconstruct(chunks, have, want))
			fmt.Fprintf(&out, "%d+%d %016x %016x\n", k, m, parity, checksum(chunks))
		}
	}
	return out.String()
}

// The golden file was printed by testdata/oracle.c with the jerasure library of
// Debian 12, not by this package.
func TestSameBytesAsRecordedJerasure(t *testing.T) {
	golden, err := os.ReadFile("testdata/jerasure.golden")
	must(t, err)
	compareLines(t, ourSums(t), string(golden))
}

// TestSameBytesAsJerasure runs the real library where it is installed.
func TestSameBytesAsJerasure(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skipf("no gcc (%v): only the recorded checksums are compared", err)
	}
	if _, err := os.Stat("/usr/include/jerasure.h"); err != nil {
		t.Skipf("the jerasure library is not installed (Debian: libjerasure-dev; %v): only the recorded checksums are compared", err)
	}
	program := filepath.Join(t.TempDir(), "oracle")
	build := exec.Command(gcc, "-O1", "testdata/oracle.c", "-o", program, "-I/usr/include/jerasure", "-lJerasure")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("oracle.c does not compile: %v\n%s", err, out)
	}
	out, err := exec.Command(program).Output()
	must(t, err)
	compareLines(t, ourSums(t), string(out))
}

func compareLines(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	if len(g) != len(w) {
		t.Fatalf("%d lines, want %d", len(g), len(w))
	}
	for i := range w {
		if g[i] != w[i] {
			t.Errorf("got %q, jerasure has %q", g[i], w[i])
		}
	}
}
