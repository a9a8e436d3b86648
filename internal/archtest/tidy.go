package archtest

import (
	"bufio"
	"fmt"
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
)

// Limits on size, in lines.
const (
	FileLinesMax = 800
	FuncLinesMax = 70
	MainLinesMax = 40
)

// CheckPackageComments reports packages without a comment that begins as go doc
// expects, and programs whose main.go does more than wiring.
func (t *Tree) CheckPackageComments() []Violation {
	documented, seen := map[string]bool{}, map[string]string{}
	var out []Violation
	for _, f := range t.Files {
		if f.Test {
			continue
		}
		dir, name := f.Dir(), f.AST.Name.Name
		seen[dir] = name
		want := "Package " + name
		if name == "main" {
			want = "Command " + path.Base(dir)
			if path.Base(f.Path) == "main.go" && strings.HasPrefix(path.Base(dir), "vitastor-") && f.Lines > MainLinesMax {
				out = append(out, Violation{"main", f.Path, fmt.Sprintf(
					"%d lines: a program's main.go has at most %d (flags, wiring, run)", f.Lines, MainLinesMax)})
			}
		}
		if f.AST.Doc != nil && strings.HasPrefix(f.AST.Doc.Text(), want) {
			documented[dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(seen)) {
		if !documented[dir] {
			out = append(out, Violation{"package comment", dir,
				"needs a comment (Package x …, or Command x … for a program): purpose, guarantee, concurrency rule"})
		}
	}
	return out
}

// CheckFileLength reports source files that are too long to read in one go.
func (t *Tree) CheckFileLength() []Violation {
	var out []Violation
	report := func(name string, lines int) {
		if lines > FileLinesMax {
			out = append(out, Violation{"file length", name,
				fmt.Sprintf("%d lines, at most %d: split it by concern", lines, FileLinesMax)})
		}
	}
	for _, f := range t.Files {
		report(f.Path, f.Lines)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Other)) {
		report(name, t.Other[name])
	}
	return out
}

// CheckFuncLength is a ratchet: a function may be longer than FuncLinesMax only
// if allowed (text of lines "file function lines") lists it, and not longer
// than listed there. Entries that are no longer needed are reported too.
// Tests are exempt: their tables are long by nature.
func (t *Tree) CheckFuncLength(allowed string) []Violation {
	limits := parseRatchet(allowed)
	var out []Violation
	for _, f := range t.Files {
		if f.Test {
			continue
		}
		for _, decl := range f.AST.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := t.Fset.Position(fn.End()).Line - t.Fset.Position(fn.Pos()).Line + 1
			key := f.Path + " " + funcName(fn)
			limit, listed := limits[key]
			delete(limits, key)
			switch {
			case listed && lines <= FuncLinesMax:
				out = append(out, Violation{"function length", key, "is short now: remove it from the ratchet"})
			case lines > max(limit, FuncLinesMax):
				out = append(out, Violation{"function length", key,
					fmt.Sprintf("%d lines, at most %d: split it", lines, max(limit, FuncLinesMax))})
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		out = append(out, Violation{"function length", key, "does not exist: remove it from the ratchet"})
	}
	return out
}

func parseRatchet(text string) map[string]int {
	limits := map[string]int{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		var file, name string
		var lines int
		if n, _ := fmt.Sscan(s.Text(), &file, &name, &lines); n == 3 {
			limits[file+" "+name] = lines
		}
	}
	return limits
}

// funcName is Type.Method or Function.
func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

// CheckMarks reports unfinished work: marks without an issue, skipped tests
// without a reason.
func (t *Tree) CheckMarks() []Violation {
	var out []Violation
	for _, f := range t.Files {
		for _, group := range f.AST.Comments {
			for _, c := range group.List {
				for _, mark := range []string{"FIX" + "ME", "X" + "XX"} {
					if strings.Contains(c.Text, mark) {
						out = append(out, Violation{"mark", t.Fset.Position(c.Pos()).String(), "finish it or file an issue: " + mark})
					}
				}
			}
		}
		for _, use := range selectorUses(f.AST, map[string][]string{"t": {"SkipNow"}, "b": {"SkipNow"}}) {
			out = append(out, Violation{"mark", t.Fset.Position(use.Pos()).String(), "a skipped test says why: use Skip with a reason"})
		}
	}
	return out
}

// selectorUses finds x.Name expressions where x is an identifier that is a key
// of wanted and Name is one of its values.
func selectorUses(file *ast.File, wanted map[string][]string) []ast.Node {
	var found []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(wanted[x.Name], sel.Sel.Name) {
			found = append(found, n)
		}
		return true
	})
	return found
}
