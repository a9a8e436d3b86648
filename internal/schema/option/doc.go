// Package option is the table of every parameter of OSDs, clients, monitors
// and tools (spec config.md), and everything that follows from it: parsing and
// writing of values, precedence of sources, typed structs, command lines,
// help, what changes while running, and docs/config.
//
// Guarantee: a value that is not understood never becomes a silent 0. On our
// own command line it is an error; in a file or in etcd, which programs of the
// reference share, it is a warning and the default is used. Every message
// names the parameter, the source, the value and what is allowed. What is
// written is read by reference programs as meant.
//
// Everything is a pure function of its arguments; a Set never changes after
// Merge and may be shared by goroutines.
//
// # Sources
//
//	file  <  etcd config/global  <  superblock, command line, driver options
//
// Every parameter is merged separately. A parameter that is not allowed in a
// source is ignored there with a warning; a parameter that we do not know is
// kept and reported.
//
// # Reading order
//
// option.go (what a row is), table_*.go (the rows), parse.go and write.go
// (values), merge.go (Set), configs.go and bind.go (typed structs), diff.go,
// args.go and help.go (command lines), layer.go (files). gen writes
// docs/config.
package option

//go:generate go run ./gen ../../../docs/config
