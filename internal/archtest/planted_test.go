package archtest

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// plant makes a tree of the given files; "doc" begins every package comment.
func plant(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	tree, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// expect wants exactly one violation per wanted piece of text, in order.
func expect(t *testing.T, got []Violation, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d violations, want %d: %v", len(got), len(want), got)
	}
	for i, w := range want {
		if !strings.Contains(got[i].String(), w) {
			t.Errorf("violation %q does not say %q", got[i], w)
		}
	}
}

func TestPlantedLayerViolations(t *testing.T) {
	imports := func(pkg, imp string) string {
		return fmt.Sprintf("package %s\nimport _ %q\n", pkg, imp)
	}
	for _, c := range []struct {
		file, imp string
		bad       bool
	}{
		{"internal/wire/a.go", "vitastor/internal/loop", true},
		{"internal/wire/a.go", "vitastor/internal/meta", false},
		{"internal/env/a.go", "vitastor/internal/meta", true},
		{"internal/msgr/a.go", "vitastor/internal/loop", true},
		{"internal/etcd/embed/a.go", "vitastor/internal/etcd", false},
		{"osd/store/a.go", "vitastor/mon/pggen", true},
		{"osd/store/a.go", "vitastor/osd/peering", false},
		{"osd/store/a.go", "vitastor/internal/sim", true},
		{"osd/store/a_test.go", "vitastor/internal/sim", false},
		{"osd/store/a.go", "vitastor/internal/strange", true},
		{"frontends/nbd/a.go", "vitastor/frontends/cli", true},
		{"frontends/nbd/a.go", "vitastor/frontends/blockdev", false},
		{"frontends/nbd/a.go", "vitastor/frontends/nbd/nbdproto", false},
		{"frontends/disk/a.go", "vitastor/osd/store/layout", false},
		{"mon/vitastor-mon/main.go", "vitastor/mon/election", false},
		{"osd/heal/a.go", "vitastor/mon/vitastor-mon", true},
	} {
		got := plant(t, map[string]string{c.file: imports("p", c.imp)}).CheckLayers()
		if c.bad != (len(got) == 1) {
			t.Errorf("%s importing %s: %v", c.file, c.imp, got)
		}
	}
	expect(t, plant(t, map[string]string{"util/a.go": "package util"}).CheckLayers(), "belongs to no layer")
}

func TestPlantedFenceViolations(t *testing.T) {
	for _, c := range []struct {
		file, imp string
		bad       bool
	}{
		{"internal/loop/a.go", "unsafe", true},
		{"internal/uring/a.go", "unsafe", false},
		{"osd/store/a.go", "golang.org/x/sys/unix", true},
		{"frontends/ublk/a.go", "golang.org/x/sys/unix", false},
		{"libclient/client/a.go", "C", true},
		{"mon/web/a.go", "go.etcd.io/etcd/server/v3/embed", true},
		{"internal/etcd/embed/a.go", "go.etcd.io/etcd/server/v3/embed", false},
		{"osd/heal/a.go", "math/rand", true},
	} {
		got := plant(t, map[string]string{c.file: fmt.Sprintf("package p\nimport _ %q\n", c.imp)}).CheckFences()
		if c.bad != (len(got) == 1) {
			t.Errorf("%s importing %s: %v", c.file, c.imp, got)
		}
	}
}

func TestPlantedClock(t *testing.T) {
	src := "package p\nimport \"time\"\nvar T = time.Now()\nvar D = time.Second\n"
	expect(t, plant(t, map[string]string{"osd/heal/a.go": src}).CheckDeterminism(), "osd/heal/a.go:3")
	expect(t, plant(t, map[string]string{"internal/loop/a.go": src}).CheckDeterminism())
}

func TestPlantedMissingComments(t *testing.T) {
	tree := plant(t, map[string]string{
		"osd/a/a.go":              "package a",
		"osd/b/b.go":              "// Package b does it.\npackage b",
		"osd/vitastor-x/main.go":  "package main" + strings.Repeat("\n", 41),
		"osd/vitastor-y/main.go":  "// Command vitastor-y runs.\npackage main",
		"osd/b/b_test.go":         "package b",
		"osd/b/testdata/bad.go":   "not go at all",
		"internal/tools/go.mod":   "module x",
		"internal/tools/other.go": "not go at all",
	})
	expect(t, tree.CheckPackageComments(), "at most 40", "osd/a: package comment", "osd/vitastor-x: package comment")
}

func TestPlantedLengths(t *testing.T) {
	long := "package p\nfunc (s *S[T]) Long() {\n" + strings.Repeat("\n", 75) + "}\ntype S[T any] struct{}\n"
	tree := plant(t, map[string]string{
		"osd/p/a.go": long, "osd/p/b.go": "package p" + strings.Repeat("\n", 801),
		"qemu-plugin/x.c": strings.Repeat("\n", 801), "osd/p/a_test.go": long,
	})
	expect(t, tree.CheckFileLength(), "osd/p/b.go", "qemu-plugin/x.c")
	expect(t, tree.CheckFuncLength(""), "osd/p/a.go S.Long: function length: 77 lines, at most 70")
	expect(t, tree.CheckFuncLength("osd/p/a.go S.Long 77\n"))
	expect(t, tree.CheckFuncLength("osd/p/a.go S.Long 76\n"), "77 lines, at most 76")
	expect(t, tree.CheckFuncLength("osd/p/a.go S.Long 77\nosd/p/a.go gone 99\n"), "does not exist")
	short := plant(t, map[string]string{"osd/p/a.go": "package p\nfunc f() {}\n"})
	expect(t, short.CheckFuncLength("osd/p/a.go f 80\n"), "is short now")
}

func TestPlantedMarks(t *testing.T) {
	tree := plant(t, map[string]string{"osd/p/a_test.go": "package p\n// FIX" + "ME later\nfunc f(t T) { t.SkipNow() }\n"})
	expect(t, tree.CheckMarks(), "finish it", "says why")
}

func TestPlantedDependencies(t *testing.T) {
	expect(t, CompareGolden("vitastor-osd", []string{"a/b", "c/d"}, "a/b\ne/f\n"), "new: c/d", "gone: e/f")
	p := Package{Deps: []string{"fmt", "vitastor/internal/env", "x/y", "C"}}
	if got := ForeignDeps(p, map[string]bool{"fmt": true}); len(got) != 1 || got[0] != "x/y" {
		t.Errorf("foreign dependencies %v", got)
	}
}

func TestLicences(t *testing.T) {
	for text, want := range map[string]string{
		"Apache License\n  Version 2.0, January 2004":              "Apache-2.0",
		"Mozilla Public License, version 2.0":                      "MPL-2.0",
		"GNU GENERAL PUBLIC LICENSE":                               "GPL",
		"Redistribution and use in source and\nbinary forms, with": "BSD",
		"all rights reserved":                                      "",
	} {
		if got := LicenceOf(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	dir := t.TempDir()
	mod := []Package{{Module: &struct {
		Path, Version, Dir string
		Main               bool
	}{Path: "example.org/m", Dir: dir}}}
	expect(t, CheckLicences(mod), "example.org/m")
}
