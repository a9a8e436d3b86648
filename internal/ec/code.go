// Package ec is the erasure code of a pool: XOR and jerasure-exact systematic
// Reed-Solomon, and the read/modify/write plan of a stripe. Normative text:
// spec osd.md §5.2 (plan) and §7 (code).
//
// An object of k*B image bytes is a row of k data chunks and m parity chunks,
// one role each, B bytes per chunk:
//
//	role      0      1           k-1     k            k+m-1
//	       +------+------+     +------+------+      +--------+
//	       |  d0  |  d1  | ... | dk-1 |  p0  |  ... |  pm-1  |
//	       +------+------+     +------+------+      +--------+
//
//	p_i[x] = XOR over j of M[i][j] * d_j[x]      in GF(2^8), polynomial 0x11d
//
// Every byte position x stands alone, so each function works on any sub-range
// of the chunks, of any length and alignment. Bitmaps of chunks are coded by
// the very same functions as the chunks themselves.
//
// Guarantee: the bytes are those of jerasure's reed_sol_van (w = 8), for every
// geometry; any k chunks give back all others; wrong arguments are errors,
// never a panic. No function allocates in the steady state.
//
// Concurrency: a Code owns scratch memory and a cache: it belongs to one event
// loop. Plan values belong to the operation that holds them. Outputs must not
// overlap inputs.
package ec

import (
	"crypto/subtle"
	"errors"
	"fmt"
)

// MaxRoles is the largest number of chunks of an object (osd.md §1).
const MaxRoles = 256

// ErrTooFewChunks says that fewer than k chunks are left: the contents cannot
// be rebuilt (EIO to the client).
var ErrTooFewChunks = errors.New("ec: fewer chunks are available than data chunks exist, contents cannot be rebuilt")

// Scheme is the kind of code of a pool.
type Scheme uint8

const (
	// XOR has exactly one parity chunk, the sum of the data chunks.
	XOR Scheme = iota + 1
	// ReedSolomon is the scheme "ec", alias "jerasure".
	ReedSolomon
)

func (s Scheme) String() string {
	switch s {
	case XOR:
		return "xor"
	case ReedSolomon:
		return "ec"
	}
	return fmt.Sprintf("scheme(%d)", uint8(s))
}

// Code encodes and rebuilds the chunks of one geometry. Make it with New.
type Code struct {
	scheme       Scheme
	dataChunks   int
	parityChunks int
	parityRows   [][]byte // M: parityChunks rows of dataChunks factors
	decoders     decoderCache

	// Scratch of Reconstruct: which chunks go in and out of one product.
	in, out, rows [][]byte
}

// New makes the code of k data chunks and m parity chunks.
func New(scheme Scheme, dataChunks, parityChunks int) (*Code, error) {
	k, m := dataChunks, parityChunks
	if scheme != XOR && scheme != ReedSolomon {
		return nil, fmt.Errorf("ec: unknown scheme %d, use XOR or ReedSolomon", uint8(scheme))
	}
	if err := checkCounts(k, m); err != nil {
		return nil, err
	}
	if scheme == XOR && m != 1 {
		return nil, fmt.Errorf("ec: XOR has exactly 1 parity chunk, not %d", m)
	}
	return &Code{
		scheme:       scheme,
		dataChunks:   k,
		parityChunks: m,
		parityRows:   parityMatrix(k, m), // for m = 1 all ones: the XOR
		in:           make([][]byte, 0, k),
		out:          make([][]byte, 0, m),
		rows:         make([][]byte, 0, m),
	}, nil
}

func checkCounts(k, m int) error {
	if k < 1 || m < 1 || k > MaxRoles || m > MaxRoles || k+m > MaxRoles {
		return fmt.Errorf("ec: %d data and %d parity chunks: at least one of each, together at most %d", k, m, MaxRoles)
	}
	return nil
}

// Scheme is the kind of the code.
func (c *Code) Scheme() Scheme { return c.scheme }

// DataChunks is k.
func (c *Code) DataChunks() int { return c.dataChunks }

// ParityChunks is m.
func (c *Code) ParityChunks() int { return c.parityChunks }

// Chunks is k+m, the number of roles.
func (c *Code) Chunks() int { return c.dataChunks + c.parityChunks }

// ParityFactor is M[parity][data] of osd.md §7.2, 0 outside of the matrix.
func (c *Code) ParityFactor(parity, data int) byte {
	if parity < 0 || parity >= c.parityChunks || data < 0 || data >= c.dataChunks {
		return 0
	}
	return c.parityRows[parity][data]
}

// Encode computes parity from all k data chunks (or the same sub-range of
// each, or their bitmaps), which must have equal lengths. parity has m
// entries; empty ones are not computed, others have the length of the data.
func (c *Code) Encode(data, parity [][]byte) error {
	if len(data) != c.dataChunks || len(parity) != c.parityChunks {
		return fmt.Errorf("ec: Encode got %d data and %d parity chunks, the code has %d and %d",
			len(data), len(parity), c.dataChunks, c.parityChunks)
	}
	bytes := len(data[0])
	for j, d := range data {
		if len(d) != bytes {
			return lengthError("Encode", j, len(d), bytes)
		}
	}
	if err := c.checkParity("Encode", parity, bytes); err != nil {
		return err
	}
	product(c.parityRows, data, parity)
	return nil
}

// Update adds the change of one data chunk to parity: delta is old XOR new
// (see XORInto) over some range, parity has m entries with the same range of
// the parity chunks; empty ones are left alone.
func (c *Code) Update(role int, delta []byte, parity [][]byte) error {
	if role < 0 || role >= c.dataChunks || len(parity) != c.parityChunks {
		return fmt.Errorf("ec: Update of role %d with %d parity chunks, the code has data roles 0..%d and %d parity chunks",
			role, len(parity), c.dataChunks-1, c.parityChunks)
	}
	if err := c.checkParity("Update", parity, len(delta)); err != nil {
		return err
	}
	for i, p := range parity {
		if len(p) != 0 {
			addMultiple(p, c.parityRows[i][role], delta)
		}
	}
	return nil
}

// XORInto sets dst = a XOR b; all three have the same length. dst may be a or b.
func XORInto(dst, a, b []byte) error {
	if len(dst) != len(a) || len(a) != len(b) {
		return fmt.Errorf("ec: XORInto of %d and %d bytes into %d: lengths must be equal", len(a), len(b), len(dst))
	}
	subtle.XORBytes(dst, a, b)
	return nil
}

func (c *Code) checkParity(op string, parity [][]byte, bytes int) error {
	for i, p := range parity {
		if len(p) != 0 && len(p) != bytes {
			return lengthError(op, c.dataChunks+i, len(p), bytes)
		}
	}
	return nil
}

func lengthError(op string, role, got, want int) error {
	return fmt.Errorf("ec: %s: chunk of role %d has %d bytes, others have %d: give the same range of every chunk", op, role, got, want)
}
