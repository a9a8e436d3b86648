package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const dir = "../../../../docs/config"

func TestCommittedDocsAreUpToDate(t *testing.T) {
	all := pages()
	for name, text := range all {
		committed, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(committed) != text {
			t.Errorf("docs/config/%s is not up to date (%v): run go generate ./internal/schema/option", name, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := all[f.Name()]; !ok {
			t.Errorf("docs/config/%s is not generated: remove it", f.Name())
		}
	}
}

func TestWriteAndLinks(t *testing.T) {
	out := filepath.Join(t.TempDir(), "config")
	if err := write(out); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(out, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for part := range strings.SplitSeq(string(readme), "](") {
		target, _, _ := strings.Cut(part, ")")
		file, anchor, ok := strings.Cut(target, ".md#")
		if !ok {
			continue
		}
		links++
		text, err := os.ReadFile(filepath.Join(out, file+".md"))
		if err != nil || !strings.Contains(string(text), "\n## "+anchor+"\n") {
			t.Errorf("link to %s leads nowhere (%v)", target, err)
		}
	}
	if links < 150 {
		t.Errorf("only %d links", links)
	}
	if write("/proc/nowhere") == nil {
		t.Error("an impossible folder is no error")
	}
}
