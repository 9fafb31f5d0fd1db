// Package pki holds requorum's identities, keys and certificates, and the TLS configurations made of
// them. One CA, the controller's, signs every certificate; a certificate says who its holder is in one
// URI. Links are TLS 1.3. Hosts are not compared, since nodes move: a peer is who its URI says, and
// the caller states whom it expects.
package pki
