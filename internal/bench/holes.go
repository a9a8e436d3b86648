package main

import (
	"fmt"
	"io"
	"os"

	"vitastor/internal/e2e/cluster"
)

// writeHoles makes the disks of a cluster as large as they say they are.
func writeHoles(c *cluster.Cluster) error {
	for _, n := range c.OSDNumbers() {
		if err := writeOut(c.Disk(n)); err != nil {
			return err
		}
	}
	return nil
}

// writeOut writes every byte of a file with what it contains. A block device
// has no holes and no unwritten extents; otherwise the file system would be
// measured, which gives the first write of each block to a kernel thread.
func writeOut(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 4<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(b, at)
		if n > 0 {
			if _, err := f.WriteAt(b[:n], at); err != nil {
				return fmt.Errorf("writing %s: %w", file, err)
			}
		}
		at += int64(n)
		if err == io.EOF {
			return f.Sync()
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
	}
}
