package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// askFor is how long whoever hands out a role's keys may take.
const askFor = 10 * time.Second

// chain looks for keys where S3 clients do, in their order and by their variables. Unlike the client's own chain it says
// what was wrong where there are none: a request without a signature is told no more than that access is denied.
type chain struct{ cfg Config }

func newChain(cfg Config) chain { return chain{cfg} }

// ask returns the keys that are there now.
func (c chain) ask(ctx context.Context) (Credentials, error) {
	if keys, err := retrieve(&credentials.EnvAWS{}); err == nil {
		return keys, nil
	}
	keys, inFile := retrieve(&credentials.FileAWSCredentials{})
	if inFile == nil {
		return keys, nil
	}
	if errors.Is(inFile, fs.ErrNotExist) {
		inFile = nil
	}
	keys, err := c.role(ctx)
	if err != nil {
		err = errors.Join(err, inFile)
	}
	return keys, err
}

// role asks for the keys of a role: that of a web identity, of the container, or of the machine.
func (c chain) role(ctx context.Context) (Credentials, error) {
	from, iam, local := "the machine's metadata service", &credentials.IAM{}, true
	switch {
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		from, local = "the token service for web identities", false
		iam.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS")
	case os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		from = "the container's credentials endpoint"
	case strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return Credentials{}, errors.New("no keys in the environment or the shared credentials file, and no role")
	default:
		iam.Endpoint = strings.TrimSuffix(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/")
	}
	client, err := c.client(local)
	if err != nil {
		return Credentials{}, err
	}
	defer client.CloseIdleConnections()
	v, err := iam.RetrieveWithCredContext(&credentials.CredContext{Client: client, Context: ctx})
	keys := Credentials{AccessKey: v.AccessKeyID, SecretKey: v.SecretAccessKey, SessionToken: v.SessionToken, Expires: v.Expiration}
	if err == nil && (keys.AccessKey == "" || keys.SecretKey == "") {
		err = errors.New("it handed out none")
	}
	if err != nil {
		err = fmt.Errorf("keys from %s: %w", from, err)
	}
	return keys, err
}

// client returns the client for who hands out keys. What belongs to the machine or the container is not asked through a
// proxy, which has another role or none.
func (c chain) client(local bool) (*http.Client, error) {
	transport, err := newTransport(c.cfg)
	if err != nil {
		return nil, err
	}
	if local {
		transport.Proxy = nil
	}
	return &http.Client{Transport: transport, Timeout: askFor}, nil
}
