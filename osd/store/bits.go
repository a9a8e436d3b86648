package store

import (
	"math/bits"

	"vitastor/internal/invariant"
)

// blockBits is the set of used data blocks. It finds the lowest free one in
// constant time: level 0 has a bit per block, each further level a bit per
// word of the one below, set when that word is all ones.
type blockBits struct {
	n      int
	used   int
	levels [][]uint64
}

func newBlockBits(n int) *blockBits {
	b := &blockBits{n: n}
	for size := n; ; {
		words := (size + 63) / 64
		level := make([]uint64, words)
		if rest := size % 64; rest != 0 { // what lies behind the end is not free
			level[words-1] = ^uint64(0) << rest
		}
		b.levels = append(b.levels, level)
		if words == 1 {
			return b
		}
		size = words
	}
}

func (b *blockBits) get(i int) bool { return b.levels[0][i>>6]>>(i&63)&1 != 0 }

// lowestFree returns -1 if all blocks are used.
func (b *blockBits) lowestFree() int {
	at := 0
	for l := len(b.levels) - 1; l >= 0; l-- {
		free := ^b.levels[l][at]
		if free == 0 {
			return -1
		}
		at = at<<6 | bits.TrailingZeros64(free)
	}
	return at
}

func (b *blockBits) set(i int) {
	invariant.Must(!b.get(i), "store: a data block was claimed twice")
	b.used++
	for l := range b.levels {
		w := &b.levels[l][i>>6]
		*w |= 1 << (i & 63)
		if *w != ^uint64(0) {
			return
		}
		i >>= 6
	}
}

func (b *blockBits) clear(i int) {
	invariant.Must(b.get(i), "store: a free data block was released")
	b.used--
	for l := range b.levels {
		w := &b.levels[l][i>>6]
		full := *w == ^uint64(0)
		*w &^= 1 << (i & 63)
		if !full {
			return
		}
		i >>= 6
	}
}

// anyUsed tells whether a block of [from, to) is used.
func (b *blockBits) anyUsed(from, to int) bool {
	for ; from < to; from++ {
		if from&63 == 0 && to-from >= 64 && b.levels[0][from>>6] == 0 {
			from += 63
			continue
		}
		if b.get(from) {
			return true
		}
	}
	return false
}

// granuleBits is the set of used granules of the buffer area. It hands out
// contiguous ranges, searching on from the last one (next fit).
type granuleBits struct {
	n, used, next int
	words         []uint64
}

func newGranuleBits(n int) *granuleBits {
	return &granuleBits{n: n, words: make([]uint64, (n+63)/64)}
}

func (b *granuleBits) get(i int) bool { return b.words[i>>6]>>(i&63)&1 != 0 }

// take finds and claims count contiguous granules; -1 if there are none.
func (b *granuleBits) take(count int) int {
	if count > b.n-b.used {
		return -1
	}
	at := b.search(b.next, b.n, count)
	if at < 0 {
		at = b.search(0, min(b.next+count-1, b.n), count)
	}
	if at >= 0 {
		b.claim(at, count)
		b.next = at + count
	}
	return at
}

func (b *granuleBits) search(from, to, count int) int {
	run := 0
	for i := from; i < to; i++ {
		if i&63 == 0 && b.words[i>>6] == ^uint64(0) {
			run, i = 0, i+63
			continue
		}
		if b.get(i) {
			run = 0
		} else if run++; run == count {
			return i - count + 1
		}
	}
	return -1
}

func (b *granuleBits) claim(at, count int) {
	for i := at; i < at+count; i++ {
		invariant.Must(!b.get(i), "store: a part of the buffer area was claimed twice")
		b.words[i>>6] |= 1 << (i & 63)
	}
	b.used += count
}

func (b *granuleBits) release(at, count int) {
	for i := at; i < at+count; i++ {
		invariant.Must(b.get(i), "store: a free part of the buffer area was released")
		b.words[i>>6] &^= 1 << (i & 63)
	}
	b.used -= count
}

// free tells whether all of [at, at+count) is free.
func (b *granuleBits) free(at, count int) bool {
	for i := at; i < at+count; i++ {
		if b.get(i) {
			return false
		}
	}
	return true
}
