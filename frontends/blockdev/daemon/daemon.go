// Package daemon is how block front ends run in the background, and what they
// leave on this host so that others find them.
//
//	map (terminal) ── Spawn ──▶ the same command line, InBackground
//	      ◀──── "ok /dev/ublkb0" ── Ready       or "error TEXT" ── Failed
//
// The command line stays as it is: `ls` of the reference's users reads images
// from it. What it does not say is in state files, JSON objects in StateDir:
//
//	/run/vitastor/KIND-NAME.json
//
// Guarantee: Spawn returns what the child has reported, or an error; a state
// file is whole or not there, whatever dies.
//
// Concurrency: functions without state; Ready and Failed are called once.
package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// reportEnv tells a process in the background that its parent waits on
// descriptor reportFD.
const (
	reportEnv = "VITASTOR_DAEMON_REPORT"
	reportFD  = 3
)

// Spawn runs this command line again in the background, and returns what that
// gave to Ready. "" = its output is thrown away.
func Spawn(logfile string) (ready string, err error) {
	if logfile == "" {
		logfile = os.DevNull
	}
	log, err := os.OpenFile(logfile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return "", fmt.Errorf("--logfile: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), reportEnv+"=1"), Stdout: log, Stderr: log,
		ExtraFiles: []*os.File{w}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", fmt.Errorf("background process: %w", err)
	}
	line, _ := bufio.NewReader(r).ReadString('\n')
	word, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case "ok":
		return text, cmd.Process.Release()
	case "error":
		cmd.Wait()
		return "", errors.New(text)
	}
	return "", fmt.Errorf("the background process ended without a word (%v): look at --logfile", cmd.Wait())
}

// InBackground tells whether Spawn has started this process.
func InBackground() bool { return os.Getenv(reportEnv) != "" }

// Report is the way to the process that waits in Spawn.
type Report struct{ pipe *os.File }

// NewReport is called early by a process in the background, so that processes
// which it starts do not inherit the report.
func NewReport() *Report {
	os.Unsetenv(reportEnv)
	syscall.CloseOnExec(reportFD)
	return &Report{os.NewFile(reportFD, "report")}
}

// Ready lets Spawn return. The working directory is left, so that its file
// system can be unmounted.
func (r *Report) Ready(text string) {
	os.Chdir("/")
	r.say("ok", text)
}

// Failed makes Spawn return an error, if it still waits.
func (r *Report) Failed(err error) { r.say("error", err.Error()) }

func (r *Report) say(word, text string) {
	if r.pipe != nil {
		fmt.Fprintf(r.pipe, "%s %s\n", word, strings.ReplaceAll(text, "\n", " "))
		r.pipe.Close()
		r.pipe = nil
	}
}

// Run runs serve here, or in the background unless foreground is set, and gives
// print what serve calls ready with.
func Run(foreground bool, logfile string, print func(string), serve func(ready func(string)) error) error {
	switch {
	case InBackground():
		r := NewReport()
		err := serve(r.Ready)
		if err != nil {
			r.Failed(err)
		}
		return err
	case foreground:
		return serve(print)
	}
	text, err := Spawn(logfile)
	if err == nil {
		print(text)
	}
	return err
}

// WritePID writes the number of this process: digits only, as the reference.
func WritePID(path string) error {
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("--pidfile: %w", err)
	}
	return nil
}
