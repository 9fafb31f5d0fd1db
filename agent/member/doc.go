// Package member asks the node's running etcd member: what it is and how it is, its HashKV, its snapshot
// stream, and whether it serves as it must after a restore.
//
// A connection lives for one call (Snapshot's until it is closed), and certificates, CA bundle and password
// are read again for each, so that a rotated file needs no restart. What is asked goes to the node's own
// member only.
//
// # What requorum may do in etcd
//
// With authentication off nothing is needed. With authentication on, etcd 3.7 wants:
//
//	Status, member list, granting and revoking a lease   any user that is logged in
//	linearizable read                                    a user that may read the key read
//	HashKV, snapshot, clearing an alarm, adding a member the role root
//
// so requorum needs a user with the role root: by user name and password, or, where etcd runs with
// --client-cert-auth, by a client certificate whose common name is that user's name.
//
// Logging in by password takes a leader, and an entry in the raft log. The token is therefore kept and used
// again, and a member whose cluster lost its quorum still answers an agent that logged in before. A client
// certificate works without a leader at any time.
package member
