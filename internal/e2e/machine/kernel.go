package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernelName is the package of Debian: 6.12 is the first of bookworm's kernels
// with VDUSE and ublk; the one for cloud machines has no 9p.
const kernelName = "linux-image-6.12-amd64"

// Kernel is one of Debian, unpacked.
type Kernel struct {
	Dir     string // in the cache
	Version string // as uname -r says
	deps    map[string]moduleFile
}

// moduleFile is a line of modules.dep: a file, and those it needs.
type moduleFile struct {
	path  string
	needs []string // paths, nearest first
}

// FetchKernel finds the newest kernel that apt knows. Without apt, or its lists,
// the newest in the cache is taken.
func FetchKernel(cache string) (*Kernel, error) {
	name, err := realPackage(kernelName, "linux-image-6.12")
	if err != nil {
		have, _ := filepath.Glob(filepath.Join(cache, "linux-image-6.12*-amd64"))
		if len(have) == 0 {
			return nil, err
		}
		name = filepath.Base(slices.Max(have))
	}
	dir, err := Fetch(cache, name, prepareKernel)
	if err != nil {
		return nil, err
	}
	return openKernel(dir)
}

// openKernel reads what a folder has.
func openKernel(dir string) (*Kernel, error) {
	version, err := versionIn(dir)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Dir: dir, Version: version, deps: map[string]moduleFile{}}
	text, err := os.ReadFile(filepath.Join(k.ModulesDir(), "modules.dep"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		k.deps[moduleName(path)] = moduleFile{path, strings.Fields(needs)}
	}
	return k, nil
}

func versionIn(dir string) (string, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return "", fmt.Errorf("there is no kernel in %s", dir)
	}
	return strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), nil
}

// prepareKernel does what Debian's scripts do after an installation, and unpacks
// the kernel itself.
func prepareKernel(dir string) error {
	version, err := versionIn(dir)
	if err != nil {
		return err
	}
	if err := command(dir, Sbin("depmod"), "-b", dir, version); err != nil {
		return fmt.Errorf("%w (Debian: kmod)", err)
	}
	k := Kernel{Dir: dir, Version: version}
	packed, err := os.ReadFile(k.Image())
	if err != nil {
		return err
	}
	payload, err := payloadOf(packed)
	if err != nil {
		return fmt.Errorf("%s: %w", k.Image(), err)
	}
	elf, err := unpack(payload, "zstd", "zstd", "-dcq")
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return fmt.Errorf("%s does not have an ELF file inside", k.Image())
	}
	return os.WriteFile(k.ELF(), elf, 0o644)
}

// payloadOf is the compressed kernel in a bzImage, by the boot protocol of Linux
// (Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, payload_offset at
// 0x248 after the real-mode part, payload_length at 0x24c. Its last 4 bytes are
// the size of what is in it.
func payloadOf(image []byte) ([]byte, error) {
	if len(image) < 0x260 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("is no Linux kernel (bzImage)")
	}
	begin := (uint64(image[0x1f1])+1)*512 + uint64(binary.LittleEndian.Uint32(image[0x248:]))
	end := begin + uint64(binary.LittleEndian.Uint32(image[0x24c:]))
	if end > uint64(len(image)) || end < begin+4 {
		return nil, fmt.Errorf("its header says that the kernel is at %d to %d of %d bytes", begin, end, len(image))
	}
	return image[begin : end-4], nil
}

// unpack decompresses with a program of a package of Debian.
func unpack(packed []byte, pkg string, args ...string) ([]byte, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(packed)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s (Debian: %s): %w %s", strings.Join(args, " "), pkg, err, problem.Bytes())
	}
	return out, nil
}

// Image is the kernel as boot loaders want it.
func (k *Kernel) Image() string { return filepath.Join(k.Dir, "boot", "vmlinuz-"+k.Version) }

// ELF is the kernel unpacked: QEMU boots it directly, which saves the machine
// the unpacking.
func (k *Kernel) ELF() string { return filepath.Join(k.Dir, "boot", "vmlinux") }

// ModulesDir is what /lib/modules/VERSION should be for modprobe.
func (k *Kernel) ModulesDir() string { return filepath.Join(k.Dir, "lib", "modules", k.Version) }

// Module is one to load.
type Module struct {
	Name       string
	Parameters string
	Data       []byte // ELF
}

// Modules are those with the given names, after those that they need, each once.
// A name may be followed by parameters. What is built into the kernel is left
// out.
func (k *Kernel) Modules(wanted ...string) ([]Module, error) {
	builtin, err := os.ReadFile(filepath.Join(k.ModulesDir(), "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var list []Module
	have := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		have[moduleName(strings.TrimSpace(line))] = true
	}
	add := func(path, parameters string) error {
		name := moduleName(path)
		if have[name] {
			return nil
		}
		have[name] = true
		data, err := readModule(filepath.Join(k.ModulesDir(), path))
		list = append(list, Module{name, parameters, data})
		return err
	}
	for _, w := range wanted {
		name, parameters, _ := strings.Cut(w, " ")
		name = moduleName(name)
		file, ok := k.deps[name]
		if !ok && !have[name] {
			return nil, fmt.Errorf("kernel %s has no module %q", k.Version, name)
		}
		for _, path := range slices.Backward(file.needs) {
			if err := add(path, ""); err != nil {
				return nil, err
			}
		}
		if ok {
			if err := add(file.path, parameters); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// moduleName is the name of a file: "kernel/lib/crc-t10dif.ko.xz" is crc_t10dif.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readModule(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(path, ".xz") {
		return data, err
	}
	data, err = unpack(data, "xz-utils", "xz", "-dc")
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return data, err
}
