package placement

import (
	"math"
	"slices"
)

const (
	// tolerance is how far from its share (or rounding) an OSD may be before
	// data is moved because of it alone. Without it, every small change of some
	// weight would move a replica of half of the OSDs.
	tolerance = 0.025
	// overfull is how far above its share it may be, if less would take moving two
	// replicas instead of one.
	overfull = 0.05
	// leastShare is what every OSD gets of its share at least, if possible.
	leastShare = 0.9
	epsilon    = 1e-9
)

// setBands decides how many replicas each OSD may have. In a new distribution
// the fullest OSD, relative to its share, is as little full as whole numbers
// permit (the method of d'Hondt), because it decides how much a pool can hold.
func (g *grid) setBands(width int, fresh bool) {
	total := width * g.pgs
	n := len(g.osds)
	g.low, g.high, g.outerLow, g.outerHigh = make([]int, n), make([]int, n), make([]int, n), make([]int, n)
	scale := g.tightest(total)
	if !fresh {
		scale = max(scale, 1+tolerance)
	}
	generous, ofClass := 0, make([]int, len(g.classes))
	for o, share := range g.share {
		g.low[o] = int(share + epsilon)
		g.high[o] = max(g.low[o], int(share*scale+epsilon))
		if !g.plain { // the shares are not exact
			g.high[o] = max(g.high[o], int(math.Ceil(share-epsilon)))
		}
		g.high[o] = min(g.high[o], g.pgs)
		least := max(g.low[o], min(g.high[o], int(math.Ceil(leastShare*share-epsilon))))
		generous += least
		ofClass[g.class[o]] += least
	}
	if g.plain && slices.Max(ofClass) > g.pgs { // no PG has two of a class
		generous = total + 1
	}
	for o, share := range g.share {
		least := int(math.Ceil(leastShare*share - epsilon))
		if generous <= total {
			g.low[o] = max(g.low[o], min(least, g.high[o]))
		}
		g.outerLow[o], g.outerHigh[o] = g.low[o], g.high[o]
		if !fresh {
			g.outerLow[o] = min(g.low[o], max(int(share*(1-tolerance)+epsilon), least))
			g.outerHigh[o] = max(g.high[o], int(math.Ceil(share-epsilon)), int(share*(1+overfull)+epsilon))
		}
	}
}

// tightest is the smallest factor of the shares, at least 1, by which they make
// room for total replicas when rounded down.
func (g *grid) tightest(total int) float64 {
	room := func(scale float64) int {
		sum := 0
		for _, members := range g.classes {
			ofClass, limit := 0, g.pgs
			if !g.plain {
				limit *= len(members)
			}
			for _, o := range members {
				ofClass += min(g.pgs, int(g.share[o]*scale+epsilon))
			}
			sum += min(limit, ofClass)
		}
		return sum
	}
	below, above := 1.0, 2.0
	for room(above) < total && above < 1e6 {
		above *= 2
	}
	for range 60 {
		if middle := (below + above) / 2; room(middle) >= total {
			above = middle
		} else {
			below = middle
		}
	}
	return above
}
