package access

import "errors"

// What can be wrong. The errors that this package returns wrap one of these and say what to do.
var (
	// ErrTokenUnknown is for a token that does not exist, any more, or whose secret is wrong.
	ErrTokenUnknown = errors.New("the join token is not known")
	// ErrTokenExpired is for a token whose time is over.
	ErrTokenExpired = errors.New("the join token has expired")
	// ErrTokenNode is for a token that is bound to another node.
	ErrTokenNode = errors.New("the join token is for another node")
	// ErrTokenUsed is for a token that the node has used before, with another key.
	ErrTokenUsed = errors.New("the node has used this join token before, with another key")
	// ErrRequestReused is for a request ID that stands for another request.
	ErrRequestReused = errors.New("the request ID was used for another request")
	// ErrNodeEnrolled is for a node name that is taken.
	ErrNodeEnrolled = errors.New("a node of that name is enrolled already")
	// ErrNodeUnknown is for a node without a record.
	ErrNodeUnknown = errors.New("the node is not known")
	// ErrRevoked is for a certificate or key that is not good any more.
	ErrRevoked = errors.New("the key is revoked")
	// ErrExpired is for a certificate that expired while its connection lasted.
	ErrExpired = errors.New("the certificate has expired")
	// ErrTooMany is for a source that failed to enrol too often.
	ErrTooMany = errors.New("too many attempts to enrol have failed")
	// ErrInvalid is for a name, role, certificate request or time that is not acceptable.
	ErrInvalid = errors.New("invalid")
)
