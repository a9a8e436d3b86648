package vm

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"vitastor/internal/e2e/machine"
)

// Places on the disk, in bytes.
const (
	sectorBytes = 512
	setupAt     = 2048 * sectorBytes
	setupBytes  = 64 << 10
	// PartitionAt is where the ext4 begins.
	PartitionAt = 32 << 20
)

// Places in memory. The setup segment has the real-mode part of the kernel, its
// heap and stack, and the command line.
const (
	setupAddress   = 0x10000
	heapEnd        = 0xe000
	commandLineAt  = 0xf000
	kernelAddress  = 0x100000
	initrdAddress  = 128 << 20
	chunkBytes     = 32 << 10 // what boot.S reads at once
	tableAt        = 0x180    // in the boot sector, as in boot.S
	partitionTable = 0x1be
)

//go:embed guest/boot.S
var bootSource []byte

//go:embed guest/initramfs.sh
var initramfsInit []byte

//go:embed guest/init.sh
var diskInit []byte

// Disk is what a disk shall have.
type Disk struct {
	Bytes int64
	Files map[string][]byte // in the root of the ext4, by path
}

// extent is a part of the disk that the boot sector loads.
type extent struct {
	at      int64 // on the disk
	address uint32
	data    []byte
}

// chunks of boot.S.
func (e extent) chunks() int64 { return (int64(len(e.data)) + chunkBytes - 1) / chunkBytes }

// BuildDisk makes a bootable disk in a new, sparse file.
func BuildDisk(file string, g Guest, d Disk) error {
	if d.Bytes < PartitionAt+(16<<20) {
		return fmt.Errorf("a disk of %d bytes is too small", d.Bytes)
	}
	work, err := os.MkdirTemp(filepath.Dir(file), "disk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	boot, err := assemble(work)
	if err != nil {
		return err
	}
	initrd, err := initramfs(g)
	if err != nil {
		return err
	}
	extents, err := load(g.Kernel, initrd)
	if err != nil {
		return err
	}
	for i, e := range extents {
		b := boot[tableAt+10*i:]
		binary.LittleEndian.PutUint32(b, uint32(e.at/sectorBytes))
		binary.LittleEndian.PutUint32(b[4:], e.address)
		binary.LittleEndian.PutUint16(b[8:], uint16(e.chunks()))
	}
	p := boot[partitionTable:]
	p[0], p[4] = 0x80, 0x83 // active, Linux
	binary.LittleEndian.PutUint32(p[8:], PartitionAt/sectorBytes)
	binary.LittleEndian.PutUint32(p[12:], uint32((d.Bytes-PartitionAt)/sectorBytes))

	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(boot, 0)
	for _, e := range extents {
		_, werr := out.WriteAt(e.data, e.at)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, out.Truncate(d.Bytes), out.Close()); err != nil {
		return err
	}
	return filesystem(file, work, g, d)
}

// assemble makes the boot sector.
func assemble(work string) ([]byte, error) {
	source, object, binary := filepath.Join(work, "boot.S"), filepath.Join(work, "boot.o"), filepath.Join(work, "boot.bin")
	if err := os.WriteFile(source, bootSource, 0o644); err != nil {
		return nil, err
	}
	if err := command(work, "as", "--32", "-o", object, source); err != nil {
		return nil, err
	}
	if err := command(work, "ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", binary, object); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile(binary)
	if err == nil && len(boot) != sectorBytes {
		err = fmt.Errorf("the boot sector has %d bytes", len(boot))
	}
	return boot, err
}

// initramfs has what mounts the root.
func initramfs(g Guest) ([]byte, error) {
	busybox, err := os.ReadFile(g.Busybox)
	if err != nil {
		return nil, err
	}
	var a machine.Archive
	for _, name := range []string{"bin", "dev", "proc", "sys", "root", "modules"} {
		a.Dir(name)
	}
	a.Device("dev/console", 5, 1)
	a.File("bin/busybox", 0o755, busybox)
	a.File("init", 0o755, initramfsInit)
	for i, m := range g.Modules {
		a.File(fmt.Sprintf("modules/%02d-%s.ko", i, m.Name), 0o644, m.Data)
	}
	return a.End(), nil
}

// load says what goes where, by the boot protocol of Linux: fields of the
// header are at their offsets there.
func load(kernel string, initrd []byte) ([]extent, error) {
	image, err := os.ReadFile(kernel)
	if err != nil {
		return nil, err
	}
	if len(image) < 0x260 || string(image[0x202:0x206]) != "HdrS" {
		return nil, fmt.Errorf("%s is no Linux kernel (bzImage)", kernel)
	}
	realBytes := (int(image[0x1f1]) + 1) * sectorBytes
	if realBytes > heapEnd/2 || realBytes > len(image) {
		return nil, fmt.Errorf("%s: its real-mode part has %d bytes", kernel, realBytes)
	}
	setup := make([]byte, setupBytes)
	copy(setup, image[:realBytes])
	setup[0x210] = 0xff  // type_of_loader: none that is known
	setup[0x211] |= 0x80 // loadflags: CAN_USE_HEAP
	binary.LittleEndian.PutUint16(setup[0x224:], heapEnd-0x200)
	binary.LittleEndian.PutUint32(setup[0x228:], setupAddress+commandLineAt)
	binary.LittleEndian.PutUint32(setup[0x218:], initrdAddress)
	binary.LittleEndian.PutUint32(setup[0x21c:], uint32(len(initrd)))
	copy(setup[commandLineAt:], machine.CommandLine)

	k := extent{setupAt + setupBytes, kernelAddress, image[realBytes:]}
	i := extent{k.at + k.chunks()*chunkBytes, initrdAddress, initrd}
	if i.at+i.chunks()*chunkBytes > PartitionAt || len(k.data) > initrdAddress-kernelAddress {
		return nil, fmt.Errorf("kernel (%d bytes) and initramfs (%d bytes) are too large", len(image), len(initrd))
	}
	return []extent{{setupAt, setupAddress, setup}, k, i}, nil
}

// filesystem makes the root.
func filesystem(file, work string, g Guest, d Disk) error {
	root := filepath.Join(work, "root")
	busybox, err := os.ReadFile(g.Busybox)
	if err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "dev", "proc", "sys", "tmp", "data"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	// The names of busybox that init.sh uses are links; its shell knows itself.
	for _, name := range []string{"sh", "dd", "dmesg", "fstrim", "mount", "poweroff", "rm", "seq", "sha256sum", "sync", "tail"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return err
		}
	}
	err = errors.Join(os.WriteFile(filepath.Join(root, "bin", "busybox"), busybox, 0o755),
		os.WriteFile(filepath.Join(root, "sbin", "init"), diskInit, 0o755))
	for name, data := range d.Files {
		err = errors.Join(err, os.WriteFile(filepath.Join(root, name), data, 0o644))
	}
	if err != nil {
		return err
	}
	return command(work, machine.Sbin("mke2fs"), "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=0,offset="+strconv.Itoa(PartitionAt),
		"-d", root, file, strconv.FormatInt((d.Bytes-PartitionAt)>>10, 10)+"k")
}
