// Package archtest checks the shape of this source tree, so that the picture in
// docs/ARCHITECTURE.md stays true: import layers, fenced imports, package
// comments, sizes of files and functions, licences and dependencies.
//
// Guarantee: each rule reports every place that breaks it, and each rule has a
// test that plants a violation and sees it reported. Pure functions over an
// fs.FS, apart from deps.go, which runs the go command.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Violation is one broken rule at one place.
type Violation struct {
	Rule  string // short name, as in the table of docs/STYLE.md
	Place string // file or package, with a line where it helps
	Text  string // what is wrong and what to do
}

func (v Violation) String() string { return v.Place + ": " + v.Rule + ": " + v.Text }

// File is one parsed Go file.
type File struct {
	Path  string // slash-separated, relative to the root
	AST   *ast.File
	Lines int
	Test  bool
}

// Imports returns the import paths of the file.
func (f *File) Imports() []string {
	var paths []string
	for _, spec := range f.AST.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// Dir is the folder of the file, which is its package.
func (f *File) Dir() string { return path.Dir(f.Path) }

// Tree is a parsed source tree. Nested modules (folders with a go.mod of their
// own), testdata and hidden folders are left out.
type Tree struct {
	Fset  *token.FileSet
	Files []*File
	Other map[string]int // lines of files in other languages
}

// otherSources are file endings that obey the limit on file length too.
var otherSources = []string{".c", ".h", ".py", ".pm", ".sh"}

// Load parses every Go file below the root of fsys.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{Fset: token.NewFileSet(), Other: map[string]int{}}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return t.enter(fsys, name, d)
		}
		return t.add(fsys, name)
	})
	return t, err
}

func (t *Tree) enter(fsys fs.FS, name string, d fs.DirEntry) error {
	if name == "." {
		return nil
	}
	if d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") || name == "bin" || name == "tmp" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, name+"/go.mod"); err == nil {
		return fs.SkipDir
	}
	return nil
}

func (t *Tree) add(fsys fs.FS, name string) error {
	isGo := path.Ext(name) == ".go"
	if !isGo && !slices.Contains(otherSources, path.Ext(name)) {
		return nil
	}
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	lines := strings.Count(string(src), "\n")
	if !isGo {
		t.Other[name] = lines
		return nil
	}
	parsed, err := parser.ParseFile(t.Fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("cannot parse: %w", err)
	}
	t.Files = append(t.Files, &File{
		Path: name, AST: parsed, Lines: lines,
		Test: strings.HasSuffix(name, "_test.go"),
	})
	return nil
}
