package ec

import "github.com/klauspost/reedsolomon"

// tileBytes is the piece of every chunk that is multiplied before the next:
// inputs stay in the first-level cache while all outputs are made from them.
const tileBytes = 8 << 10

// lowLevel are the SIMD loops. They are used instead of the library's Encoder
// because that allocates in every call; and its xor is twice as fast as
// crypto/subtle on AVX2 machines.
var lowLevel reedsolomon.LowLevel

// product computes out[i] = XOR over j of rows[i][j] * in[j] for every
// non-empty out[i]. All lengths have been checked by the caller.
func product(rows, in, out [][]byte) {
	bytes := len(in[0])
	for from := 0; from < bytes; from += tileBytes {
		to := min(from+tileBytes, bytes)
		for i, o := range out {
			if len(o) != 0 {
				productTile(rows[i], in, o[from:to], from, to)
			}
		}
	}
}

func productTile(row []byte, in [][]byte, out []byte, from, to int) {
	lowLevel.GalMulSlice(row[0], in[0][from:to], out)
	for j := 1; j < len(row); j++ {
		addMultiple(out, row[j], in[j][from:to])
	}
}

// addMultiple adds factor * in to out, which has the same length.
func addMultiple(out []byte, factor byte, in []byte) {
	lowLevel.GalMulSliceXor(factor, in, out)
}
