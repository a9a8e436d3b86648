package main

import (
	"fmt"

	"vitastor/internal/bench/pingpong"
)

// benchMessages compares loop and messenger with a C program on epoll.
func benchMessages(rounds int, report func(Row)) error {
	res, err := pingpong.Run(rounds)
	if err != nil {
		return err
	}
	for _, d := range res.Depths {
		name := fmt.Sprintf("ping-pong of 4224+128 bytes, depth %d: ", d.InFlight)
		report(Row{Figure: name + "p50", Value: fmt.Sprintf("%.2f x C (%.1f us)", d.P50Ratio, d.Go.P50Nanos/1000),
			Target: "<= 1.10 x", OK: d.P50Ratio <= 1.10})
		report(Row{Figure: name + "CPU per request", Value: fmt.Sprintf("%.2f x C (%.2f us)", d.CPURatio, d.Go.CPUNanos()/1000),
			Target: "<= 1.15 x", OK: d.CPURatio <= 1.15})
	}
	return nil
}
