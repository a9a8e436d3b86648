package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Formats for people (spec cli.md §1.1).

// humanSize is 12.3 G, 20 G, 0 B.
func humanSize[N uint64 | float64 | int64 | uint32](n N) string {
	v := float64(n)
	for i, unit := range []string{"T", "G", "M", "K"} {
		if size := float64(uint64(1) << (10 * (4 - i))); v >= size {
			return decimal1(v/size) + " " + unit
		}
	}
	return decimal1(v) + " B"
}

// shortSize is 128k, 4k, 100G, 512.
func shortSize(n uint64) string {
	for i, unit := range []string{"T", "G", "M", "k"} {
		if size := uint64(1) << (10 * (4 - i)); n >= size {
			return decimal1(float64(n)/float64(size)) + unit
		}
	}
	return strconv.FormatUint(n, 10)
}

// humanCount is 7.9 K, 1.2 M, 250.
func humanCount(n uint64) string {
	for i, unit := range []string{"T", "G", "M", "K"} {
		if size := math.Pow10(3 * (4 - i)); float64(n) >= size {
			return decimal1(float64(n)/size) + " " + unit
		}
	}
	return strconv.FormatUint(n, 10)
}

func decimal1(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

// fraction is 0, 0.5, 37.29.
func fraction(v float64) string {
	s := strconv.FormatFloat(v, 'f', 2, 64)
	s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	if s == "-0" {
		return "0"
	}
	return s
}

// latency is 77 us, 1.50 ms, 0.70 s.
func latency(usec uint64) string {
	switch {
	case usec < 100:
		return fmt.Sprintf("%d us", usec)
	case usec < 500000:
		return fmt.Sprintf("%.2f ms", float64(usec)/1e3)
	}
	return fmt.Sprintf("%.2f s", float64(usec)/1e6)
}

// speed of a copy: 28.4 MB/s, 353.9 KB/s, 0B/s.
func speed(bytesPerSecond float64) string {
	s := strings.Replace(humanSize(bytesPerSecond), " B", "", 1)
	if bytesPerSecond >= 1024 {
		return s + "B/s"
	}
	return s + "B/s"
}

// parseSize reads a size argument: decimal, hexadecimal or octal, with a suffix
// k, m, g or t.
func parseSize(s string) (n uint64, ok bool) {
	if s == "" || strings.Contains(s, "_") {
		return 0, false
	}
	shift := 0
	if i := strings.IndexByte("kmgt", s[len(s)-1]|0x20); i >= 0 {
		shift, s = 10*(i+1), s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, false
	}
	return n << shift, true
}

// parseNumber reads a whole number: decimal, or hexadecimal with 0x.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if hex, is := strings.CutPrefix(strings.ToLower(s), "0x"); is {
		n, err = strconv.ParseUint(hex, 16, 64)
	}
	return n, err == nil
}

// duration of long work: 3m20s.
func duration(d time.Duration) string { return d.Round(time.Second).String() }
