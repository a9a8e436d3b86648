package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Package is what the go command tells of one package.
type Package struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	Deps       []string
	Module     *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// List runs go list with the given arguments in root.
func List(root string, args ...string) ([]Package, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Dir,Standard,Deps,Module"}, args...)...)
	cmd.Dir = root
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %v: %w\n%s", args, err, errs.String())
	}
	var pkgs []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs = append(pkgs, p)
	}
}

// Programs returns the packages that ship as programs: main packages in folders
// named vitastor-* or libvitastor. Their tests, which the go command lists as
// "x.test" and "x [x.test]", do not ship.
func Programs(pkgs []Package) []Package {
	return slices.DeleteFunc(slices.Clone(pkgs), func(p Package) bool {
		base := filepath.Base(p.Dir)
		return strings.Contains(p.ImportPath, ".test") || p.Name != "main" || !strings.HasPrefix(base, "vitastor-") && base != "libvitastor"
	})
}

// ForeignDeps lists the packages outside the standard library and our module
// that p is built from; std tells which paths are standard.
func ForeignDeps(p Package, std map[string]bool) []string {
	var deps []string
	for _, d := range p.Deps {
		if !std[d] && d != "C" && !within(d, Module) {
			deps = append(deps, d)
		}
	}
	slices.Sort(deps)
	return deps
}

// CompareGolden reports the difference between a program's dependencies and
// the committed list.
func CompareGolden(program string, deps []string, golden string) []Violation {
	var out []Violation
	listed := strings.Fields(golden)
	for _, d := range deps {
		if !slices.Contains(listed, d) {
			out = append(out, Violation{"dependency", program,
				"new: " + d + " (wanted? run the test with -update and say why in the commit)"})
		}
	}
	for _, d := range listed {
		if !slices.Contains(deps, d) {
			out = append(out, Violation{"dependency", program, "gone: " + d + " (run the test with -update)"})
		}
	}
	return out
}

// licences maps phrases that only one licence contains to its name.
var licences = []struct{ phrase, name string }{
	{"Mozilla Public License Version 2.0", "MPL-2.0"},
	{"Apache License Version 2.0", "Apache-2.0"},
	{"GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL"},
	{"GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"},
	{"GNU GENERAL PUBLIC LICENSE", "GPL"},
	{"Permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"},
	{"Permission to use, copy, modify, and/or distribute this software", "ISC"},
	{"Redistribution and use in source and binary forms", "BSD"},
}

// AllowedLicences are those whose code may be part of ours (deps policy).
var AllowedLicences = []string{"MIT", "BSD", "Apache-2.0", "ISC", "MPL-2.0"}

// LicenceOf names the licence of a text, or "" when it is not recognised.
func LicenceOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.ReplaceAll(text, "License, version 2.0", "License Version 2.0")
	text = strings.ReplaceAll(text, "License, Version 2.0", "License Version 2.0")
	for _, l := range licences {
		if strings.Contains(text, l.phrase) {
			return l.name
		}
	}
	return ""
}

// CheckLicences reports modules among pkgs whose licence is unknown or not
// allowed.
func CheckLicences(pkgs []Package) []Violation {
	dirs := map[string]string{}
	for _, p := range pkgs {
		if p.Module != nil && !p.Module.Main {
			dirs[p.Module.Path] = p.Module.Dir
		}
	}
	var out []Violation
	for _, mod := range slices.Sorted(maps.Keys(dirs)) {
		name, err := moduleLicence(dirs[mod])
		if err != nil || !slices.Contains(AllowedLicences, name) {
			out = append(out, Violation{"licence", mod,
				fmt.Sprintf("licence %q is not one of %v (%v)", name, AllowedLicences, err)})
		}
	}
	return out
}

func moduleLicence(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if !strings.HasPrefix(upper, "LICEN") && !strings.HasPrefix(upper, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		if name := LicenceOf(string(text)); name != "" {
			return name, nil
		}
	}
	return "", errors.New("no licence file that is recognised")
}
