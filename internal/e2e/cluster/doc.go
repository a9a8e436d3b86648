// Package cluster runs a cluster of real processes for tests and for the demo:
// etcd (Debian's, one or more members, or the one inside vitastor-mon),
// monitors, and OSDs on files that vitastor-disk prepared, optionally each in a
// network namespace of its own that can be cut off.
//
//	b := cluster.Build(...)                     programs of this tree, once
//	c := cluster.New(cluster.Config{...})       nothing runs yet
//	c.Start()                                   etcd, monitors, OSDs
//	c.CreatePool, c.CreateImage, c.WaitState    what vitastor-cli would do
//	c.OSD(1).Kill(), Freeze(), Thaw(), Start()  faults
//	c.Close()                                   no process is left, even if we are killed
//
// Guarantee: after Close, or after the death of the process that uses it, no
// process and no namespace of the cluster is left: children die with their
// parent (PDEATHSIG), whatever they started is found by a mark in its
// environment, and namespaces of dead owners are removed by the next one.
// Everything that a process prints is in a file in Config.Dir/log.
//
// Concurrency: a Process may be used from any goroutine; a Cluster from one at a
// time.
package cluster
