// Package distribution measures how a snapshot reaches the other nodes: how many bytes its source sends, and
// how long it takes over slow links beside a star, in which the source sends the file to each of them.
//
// Every node is an agent of the released binary in a network namespace of its own, the links between them are
// shaped by tc, and the bytes are those that the kernel counted on the source's link. That needs root.
package distribution
