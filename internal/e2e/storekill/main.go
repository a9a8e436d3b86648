// Command storekill shows that kill -9 loses nothing that was acknowledged: a
// child process writes random 4 KiB blocks into a store on a real file and tells
// each acknowledgement through a pipe; the parent kills it, opens the store
// itself and compares. It is the main job of `make demo`, and a test.
//
//	go run ./internal/e2e/storekill [-rounds n] [-file path] [-size MiB]
//
// Guarantee: a round passes only if every acknowledged write is read back whole,
// at its version or a newer one. Concurrency: parent and child each run one event
// loop; only the parent of the moment has the store open.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const childArgument = "write-until-killed"

func main() {
	if len(os.Args) == 4 && os.Args[1] == childArgument {
		seed, _ := strconv.ParseUint(os.Args[3], 10, 64)
		exitOn(writeUntilKilled(os.Args[2], seed, os.Stdout))
		return
	}
	rounds := flag.Int("rounds", 5, "how often to kill")
	file := flag.String("file", "", "file to use as a disk; kept. Default: a temporary one")
	sizeMiB := flag.Int64("size", 256, "size of the file in MiB, when it is made")
	csum := flag.Bool("checksums", true, "keep crc32c of every 4 KiB")
	flag.Parse()
	if *file == "" {
		dir, err := os.MkdirTemp("", "storekill-")
		exitOn(err)
		defer os.RemoveAll(dir)
		*file = filepath.Join(dir, "osd.img")
	}
	if _, err := os.Stat(*file); err != nil {
		exitOn(format(*file, *sizeMiB<<20, *csum))
		fmt.Printf("made a store of %d MiB in %s\n", *sizeMiB, *file)
	}
	exitOn(rounding(*file, *rounds))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "storekill:", err)
		os.Exit(1)
	}
}

// rounding kills and verifies; what was acknowledged in earlier rounds must
// still be there in later ones.
func rounding(file string, rounds int) error {
	acked := newAcks()
	for round := 1; round <= rounds; round++ {
		run := 300*time.Millisecond + rand.N(700*time.Millisecond)
		n, err := writeAndKill(file, run, acked)
		if err != nil {
			return err
		}
		start := time.Now()
		checked, err := verify(file, acked)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		fmt.Printf("round %d: %6d writes acknowledged in %4d ms, kill -9, reopened and read %5d blocks in %4d ms: nothing lost\n",
			round, n, run.Milliseconds(), checked, time.Since(start).Milliseconds())
	}
	return nil
}

// writeAndKill runs the child for a while and collects its acknowledgements.
func writeAndKill(file string, run time.Duration, into *acks) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	child := exec.Command(self, childArgument, file, strconv.FormatUint(rand.Uint64(), 10))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := child.Start(); err != nil {
		return 0, err
	}
	timer := time.AfterFunc(run, func() { child.Process.Kill() })
	defer timer.Stop()
	n, err := into.read(bufio.NewReader(out))
	if err != nil && err != io.EOF {
		child.Process.Kill()
		child.Wait()
		return n, err
	}
	child.Wait() // "killed" is what we want
	if child.ProcessState.Exited() {
		return n, fmt.Errorf("the writer ended by itself: %v", child.ProcessState)
	}
	if n == 0 {
		return 0, fmt.Errorf("no write was acknowledged within %v", run)
	}
	return n, nil
}
