// Command init is process 1 of the machines of package guest: it loads modules,
// mounts the host's files, and runs one command.
//
//	/                 overlay: the host's root by 9p, read-only, below a tmpfs
//	/tmp /run ...     empty tmpfs: nothing of what runs on the host
//	shared folders    those of the host itself, to write to
//	/lib/modules/V    modules of this kernel, for modprobe
//
// On the console it prints PREFIX "start", then what the command prints, then
// PREFIX "exit N"; before "start" PREFIX "failed TEXT" means that there is no
// machine to run anything in.
//
// Guarantee: the machine is switched off when the command has ended, even when
// it has left processes.
// Concurrency: one goroutine.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitastor/internal/e2e/guest/boot"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Printf("\n%s%s %v\n", boot.Prefix, boot.Failed, err)
	} else {
		fmt.Printf("\n%s%s %d\n", boot.Prefix, boot.Exit, code)
	}
	// No sync: devices may be left whose servers are gone, and nothing here stays.
	time.Sleep(100 * time.Millisecond) // for the console
	fmt.Println(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}

func run() (code int, err error) {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.kind, m.at, 0, ""); err != nil {
			return 0, err
		}
	}
	text, err := os.ReadFile(boot.TaskFile)
	var task boot.Task
	if err == nil {
		err = json.Unmarshal(text, &task)
	}
	if err != nil {
		return 0, err
	}
	if err := loadModules(); err != nil {
		return 0, err
	}
	if err := mountRoot(task); err != nil {
		return 0, err
	}
	if err := interfaceUp("lo"); err != nil {
		return 0, err
	}
	return command(task)
}

func mount(source, kind, at string, flags uintptr, options string) error {
	if err := syscall.Mount(source, at, kind, flags, options); err != nil {
		return fmt.Errorf("mount -t %s %s %s -o %s: %w", kind, source, at, options, err)
	}
	return nil
}

// loadModules loads all in order; the name of a file may have parameters in a
// second file.
func loadModules() error {
	files, err := filepath.Glob(filepath.Join(boot.ModulesDir, "*.ko"))
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		parameters, _ := os.ReadFile(strings.TrimSuffix(file, ".ko") + ".parameters")
		err = unix.FinitModule(int(f.Fd()), string(parameters), 0)
		f.Close()
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("loading %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// share9p mounts a folder of the host.
func share9p(tag, at string, flags uintptr, cache string) error {
	return mount(tag, "9p", at, flags, "trans=virtio,version=9p2000.L,msize=512000,cache="+cache)
}

// mountRoot makes the root of the command and enters it.
func mountRoot(task boot.Task) error {
	err := os.MkdirAll("/host", 0o755)
	if err == nil {
		err = share9p(boot.RootTag, "/host", syscall.MS_RDONLY, "loose")
	}
	if err == nil {
		err = errors.Join(os.MkdirAll("/over", 0o755), mount("tmpfs", "tmpfs", "/over", 0, "size=90%"))
	}
	if err == nil {
		err = errors.Join(os.Mkdir("/over/upper", 0o755), os.Mkdir("/over/work", 0o755), os.Mkdir("/new", 0o755))
	}
	if err == nil {
		err = mount("overlay", "overlay", "/new", 0, "lowerdir=/host,upperdir=/over/upper,workdir=/over/work")
	}
	if err != nil {
		return err
	}
	for _, at := range []string{"/dev", "/proc", "/sys"} {
		if err := mount(at, "", "/new"+at, syscall.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chdir("/new"), mount(".", "", "/", syscall.MS_MOVE, ""), syscall.Chroot("."), os.Chdir("/")); err != nil {
		return err
	}
	return mountRest(task)
}

// mountRest is what a system has besides its root.
func mountRest(task boot.Task) error {
	for _, at := range []string{"/tmp", "/run", "/var/tmp", "/mnt", "/dev/shm"} {
		if err := errors.Join(os.MkdirAll(at, 0o755), mount("tmpfs", "tmpfs", at, 0, "mode=1777,size=90%")); err != nil {
			return err
		}
	}
	if err := errors.Join(os.MkdirAll("/dev/pts", 0o755), mount("devpts", "devpts", "/dev/pts", 0, "")); err != nil {
		return err
	}
	// Not there in all kernels, and nothing of ours needs it to work.
	_ = mount("configfs", "configfs", "/sys/kernel/config", 0, "")
	_ = mount("debugfs", "debugfs", "/sys/kernel/debug", 0, "")
	for i, dir := range task.Shared {
		if err := errors.Join(os.MkdirAll(dir, 0o755), share9p(boot.ShareTag(i), dir, 0, "none")); err != nil {
			return err
		}
	}
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return err
	}
	return modulesHere(task.Modules, utsText(name.Release[:]))
}

// modulesHere puts the kernel's modules where modprobe looks for them.
func modulesHere(from, version string) error {
	at := filepath.Join("/lib/modules", version)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	return os.Symlink(from, at)
}

func utsText(b []int8) string {
	var out []byte
	for _, c := range b {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}

// interfaceUp is `ip link set NAME up`.
func interfaceUp(name string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var request struct { // struct ifreq
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		rest  [22]byte
	}
	copy(request.name[:], name)
	request.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); e != 0 {
		return fmt.Errorf("ip link set %s up: %w", name, e)
	}
	return nil
}

// command runs the command and returns its exit code, as a shell tells it.
func command(task boot.Task) (int, error) {
	for _, variable := range task.Env {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			os.Setenv("PATH", path) // the last one counts
		}
	}
	cmd := exec.Command(task.Args[0], task.Args[1:]...)
	cmd.Env, cmd.Dir = task.Env, task.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	fmt.Printf("\n%s%s\n", boot.Prefix, boot.Start)
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return 127, nil
	}
	return reap(cmd.Process.Pid)
}

// reap waits for the command, and for everybody who has lost his parent.
func reap(pid int) (int, error) {
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case ended == pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case ended == pid && status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
