package s3

import (
	"errors"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// askFor is how long whoever hands out the role's keys may take.
const askFor = 10 * time.Second

// Credentials are keys for a bucket. Without any, the standard chain finds some: the variables AWS_ACCESS_KEY_ID and
// so on, the shared credentials file, a web identity, the role of the container or of the machine.
type Credentials struct {
	AccessKey, SecretKey, SessionToken string
}

func (c Credentials) empty() bool { return c == Credentials{} }

func (c Credentials) provider() *credentials.Credentials {
	if !c.empty() {
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	}
	return chain()
}

func chain() *credentials.Credentials {
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{},
	})
}

// FromFile reads keys from a file in the format of the AWS command line, of the profile given or else of "default".
func FromFile(path, profile string) (Credentials, error) {
	return found(credentials.NewFileAWSCredentials(path, profile))
}

// FromChain returns the keys that the standard chain finds here and now.
func FromChain() (Credentials, error) { return found(chain()) }

func found(from *credentials.Credentials) (Credentials, error) {
	v, err := from.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: askFor}})
	c := Credentials{AccessKey: v.AccessKeyID, SecretKey: v.SecretAccessKey, SessionToken: v.SessionToken}
	if err == nil && (c.AccessKey == "" || c.SecretKey == "") {
		err = errors.New("there are none")
	}
	return c, err
}
