package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are the folders of what a cluster consists of.
var Programs = []string{"./mon/vitastor-mon", "./osd/vitastor-osd", "./frontends/disk/vitastor-disk"}

// BinEnv names a folder with programs of this tree that are used instead of
// building them.
const BinEnv = "VITASTOR_E2E_BIN"

// ReferenceEnv names a folder with programs of the reference implementation.
const ReferenceEnv = "VITASTOR_REFERENCE_BIN"

// Bin finds programs.
type Bin struct{ dir string }

// Build compiles the programs of the tree into dir, or takes those of BinEnv.
func Build(dir string) (Bin, error) {
	if given := os.Getenv(BinEnv); given != "" {
		return Bin{given}, nil
	}
	root, err := Root()
	if err != nil {
		return Bin{}, err
	}
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, Programs...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return Bin{}, fmt.Errorf("go build %v: %w\n%s", Programs, err, out)
	}
	return Bin{dir}, nil
}

// At uses the programs in a folder.
func At(dir string) Bin { return Bin{dir} }

// Program is the path of one program.
func (b Bin) Program(name string) string { return filepath.Join(b.dir, name) }

// Root is the folder of go.mod, at or above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = parent
	}
}
