// Command bench measures what requorum costs, beside what people use today, and on real etcd processes. Everything
// is measured in one run on one machine and told as ratios, since absolute times say more about the machine.
// docs/bench.md says what each row is, and how to read it.
//
// What is measured is divided into sections, listed in sections.go. A section either runs once, or once for every
// size of the data on a cluster that holds that much.
package main
