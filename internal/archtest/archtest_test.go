package archtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const root = "../.."

func report(t *testing.T, violations []Violation) {
	t.Helper()
	for _, v := range violations {
		t.Error(v)
	}
}

func TestTree(t *testing.T) {
	tree, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) < 10 {
		t.Fatalf("only %d files found: wrong root?", len(tree.Files))
	}
	ratchet, err := os.ReadFile("testdata/long_functions.txt")
	if err != nil {
		t.Fatal(err)
	}
	report(t, tree.CheckLayers())
	report(t, tree.CheckFences())
	report(t, tree.CheckDeterminism())
	report(t, tree.CheckPackageComments())
	report(t, tree.CheckFileLength())
	report(t, tree.CheckFuncLength(string(ratchet)))
	report(t, tree.CheckMarks())
}

func TestDependencies(t *testing.T) {
	all, err := List(root, "-deps", "-test", "./...")
	if err != nil {
		t.Fatal(err)
	}
	report(t, CheckLicences(all))
	std := map[string]bool{}
	for _, p := range all {
		std[p.ImportPath] = p.Standard
	}
	for _, p := range Programs(all) {
		program := filepath.Base(p.Dir)
		golden := filepath.Join("testdata", "deps", program+".txt")
		deps := ForeignDeps(p, std)
		if *update {
			text := strings.Join(deps, "\n") + "\n"
			if err := os.WriteFile(golden, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Errorf("%v (run the test with -update)", err)
			continue
		}
		report(t, CompareGolden(program, deps, string(want)))
	}
}
