// Package cli is the tool vitastor-cli: everything an administrator does with
// pools, images and OSDs (spec cli.md §1, §2, §5, §6).
//
// Guarantee: names of options, text, JSON and exit codes are those that scripts
// and integrations of the reference rely on. What changes etcd is guarded by
// compares, so that two tools at work never undo each other; what moves data
// (rm, flatten, merge-data) can be killed at any moment and run again: a layer is
// only taken out of a chain when everything below it reads the same without it,
// and it is marked as deleted before its first object goes. Errors name the
// object and, where there is something to do, the remedy.
//
// A command is straight-line code on the calling goroutine. The client
// (libclient/client) lives on an event loop of its own; cluster.go hands calls
// over. A command takes a copy of what the client knows (state.go), and its
// transactions prove that this was still true.
//
// Concurrency: a Tool runs one command at a time.
//
// The files, in reading order: tool.go, args.go, commands.go, help.go (the program);
// result.go, json.go, human.go, table.go, glob.go, progress.go (what is printed);
// cluster.go, state.go (etcd and OSDs); then a file per command.
package cli
