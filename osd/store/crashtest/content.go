package crashtest

import (
	"encoding/binary"
	"fmt"
)

// Seed names the data of one write; it is unique in a history. 0 = zeroes,
// that is: never written.
type Seed uint64

// damaged is what decode returns for bytes that no write made.
const damaged Seed = ^Seed(0)

// fill writes the data of seed s to b, which begins at byte off of the object:
// every 16 bytes are the seed and the offset of their granule.
func fill(b []byte, off, granule uint32, s Seed) {
	for at := uint32(0); at < uint32(len(b)); at += 16 {
		binary.LittleEndian.PutUint64(b[at:], uint64(s))
		binary.LittleEndian.PutUint64(b[at+8:], uint64((off+at)/granule*granule))
	}
}

// decode tells which write made each granule of b, which begins at byte off.
func decode(b []byte, off, granule uint32) []Seed {
	out := make([]Seed, len(b)/int(granule))
	for i := range out {
		at := uint32(i) * granule
		out[i] = decodeGranule(b[at:at+granule], off+at)
	}
	return out
}

func decodeGranule(b []byte, off uint32) Seed {
	s := binary.LittleEndian.Uint64(b)
	want := uint64(off)
	if s == 0 {
		want = 0
	}
	for len(b) >= 16 {
		if binary.LittleEndian.Uint64(b) != s || binary.LittleEndian.Uint64(b[8:]) != want {
			return damaged
		}
		b = b[16:]
	}
	return Seed(s)
}

// seedsText prints the seeds of consecutive granules, with runs shortened.
func seedsText(s []Seed) string {
	text := ""
	for i := 0; i < len(s); {
		n := i + 1
		for n < len(s) && s[n] == s[i] {
			n++
		}
		name := fmt.Sprint(uint64(s[i]))
		switch s[i] {
		case 0:
			name = "-"
		case damaged:
			name = "DAMAGED"
		}
		if text != "" {
			text += " "
		}
		if text += name; n-i > 1 {
			text += fmt.Sprintf("x%d", n-i)
		}
		i = n
	}
	return text
}
