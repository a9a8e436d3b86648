package guest

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"vitastor/internal/e2e/cluster"
)

// inside is the program that runs in the machine: it starts a cluster there.
const inside = "./internal/e2e/guest/inside"

// Programs lists the folders of our programs, relative to the root of the tree.
func Programs() ([]string, error) {
	root, err := cluster.Root()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, top := range []string{"frontends", "libclient", "mon", "osd"} {
		err = filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "vitastor-") {
				path, err = filepath.Rel(root, path)
				list = append(list, "./"+path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// BuildPrograms compiles programs into a folder, together with the one that
// starts a cluster in the machine. Those that do not compile are in broken:
// what does not need them may go on.
func BuildPrograms(dir string, programs []string) (broken map[string]error, err error) {
	if err := goBuild(dir, append(slices.Clone(programs), inside)...); err == nil {
		return nil, nil
	}
	broken = map[string]error{}
	for _, p := range programs {
		if err := goBuild(dir, p); err != nil {
			broken[filepath.Base(p)] = err
		}
	}
	return broken, goBuild(dir, inside)
}

func goBuild(dir string, packages ...string) error {
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, packages...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	return nil
}
