// Command fuzzall runs every fuzz target of the project for a while and sums up
// how long was fuzzed and what was found.
//
//	go run ./fuzzall -root ../.. -time 30s -jobs 2 -match Decode
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"
)

type target struct{ pkg, name string }

func main() {
	root := flag.String("root", ".", "folder of the module")
	each := flag.Duration("time", 30*time.Second, "time for each target")
	jobs := flag.Int("jobs", 2, "targets that run at once, one worker each")
	match := flag.String("match", ".", "regular expression on pkg.FuzzName")
	flag.Parse()

	targets, err := list(*root, regexp.MustCompile(*match))
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall: cannot list the fuzz targets:", err)
		os.Exit(1)
	}
	fmt.Printf("%d fuzz targets, %v each\n", len(targets), *each)
	total, failed := runAll(*root, targets, *each, *jobs)
	fmt.Printf("fuzzed %v in total, %d passed, %d failed\n", total.Round(time.Second), len(targets)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// list asks go test for the targets of each package that has some.
func list(root string, match *regexp.Regexp) ([]target, error) {
	cmd := exec.Command("grep", "-rlE", "--include=*_test.go", `^func Fuzz[A-Z]`, ".")
	cmd.Dir = root
	files, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var targets []target
	fn := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	for file := range strings.FieldsSeq(string(files)) {
		src, err := os.ReadFile(root + "/" + file)
		if err != nil {
			return nil, err
		}
		pkg := file[:strings.LastIndexByte(file, '/')]
		for _, m := range fn.FindAllSubmatch(src, -1) {
			if t := (target{pkg, string(m[1])}); match.MatchString(t.pkg + "." + t.name) {
				targets = append(targets, t)
			}
		}
	}
	return targets, nil
}

func runAll(root string, targets []target, each time.Duration, jobs int) (total time.Duration, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	queue := make(chan target)
	for range jobs {
		wg.Go(func() {
			for t := range queue {
				took, out, err := run(root, t, each)
				mu.Lock()
				total += took
				status := "ok  "
				if err != nil {
					failed++
					status = "FAIL"
				}
				fmt.Printf("%s %s %s %v\n", status, t.pkg, t.name, took.Round(time.Second))
				if err != nil {
					fmt.Printf("%s\n", out)
				}
				mu.Unlock()
			}
		})
	}
	for _, t := range targets {
		queue <- t
	}
	close(queue)
	wg.Wait()
	return total, failed
}

func run(root string, t target, each time.Duration) (time.Duration, []byte, error) {
	cmd := exec.Command("go", "test", "-tags", "invariants", "-run", "^$", "-fuzz", "^"+t.name+"$",
		"-fuzztime", each.String(), "-parallel", "1", t.pkg)
	cmd.Dir = root
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	switch {
	case err == nil && !bytes.Contains(out, []byte("fuzz: elapsed")):
		err = fmt.Errorf("did not fuzz")
	case err != nil && endedLate(out):
		err = nil
	}
	return took, tail(out, 40), err
}

// endedLate tells a run that found nothing, but whose worker was still busy
// when the time was over: the fuzzer of Go calls that a failure ("context
// deadline exceeded") on a loaded machine. A finding always names its input.
func endedLate(out []byte) bool {
	return bytes.Contains(out, []byte("context deadline exceeded")) &&
		!bytes.Contains(out, []byte("Failing input")) && !bytes.Contains(out, []byte("panic"))
}

// tail is the last lines of a text.
func tail(out []byte, lines int) []byte {
	all := bytes.SplitAfter(out, []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], nil)
}
