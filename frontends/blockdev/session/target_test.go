package session

import (
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
)

func TestTarget(t *testing.T) {
	tool := option.Tool{Name: "t", Component: option.Client, Flags: Flags}
	for line, want := range map[string]Target{
		"--image a@b":                       {Image: "a@b"},
		"--pool 2 --inode 5 --size 1048576": {Inode: meta.MakeInode(2, 5), SizeBytes: 1 << 20},
	} {
		c, err := tool.Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := TargetOf(c); err != nil || got != want {
			t.Errorf("%s: %v, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{
		"":                                          "which image?",
		"--readonly":                                "which image?",
		"--image a --pool 1":                        "either",
		"--pool 1 --inode 5":                        "all of",
		"--pool x --inode 5 --size 5":               "a number",
		"--pool 0 --inode 5 --size 5":               "numbered from 1",
		"--pool 1 --inode 0 --size 5":               "numbered from 1",
		"--pool 65536 --inode 1 --size 5":           "numbered from 1",
		"--pool 1 --inode 1 --size 0":               "not 0",
		"--pool 1 --inode 1 --size 1M":              "without a unit",
		"--pool 1 --inode 281474976710656 --size 1": "numbered from 1",
	} {
		c, err := tool.Parse(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := TargetOf(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", line, got, err)
		}
	}
}
