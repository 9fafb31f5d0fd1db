package cli

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/pki"
)

func (p *program) tokenCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "token",
		Short:   "Make join tokens for nodes",
		Long:    "Make the join tokens with which nodes enrol.",
		Example: "  requorum token create --cluster prod",
	}, p.tokenCreate())
}

func (p *program) tokenCreate() *cobra.Command {
	req := &requorumv1.CreateTokenRequest{}
	ttl := config.Duration(0)
	command := &cobra.Command{
		Use:   "create --cluster NAME",
		Short: "Make a join token for the nodes of a cluster",
		Long: `Make a token with which the nodes of a cluster enrol. Only the token is written
to stdout. It is shown once and is a secret. Needs the role admin.`,
		Example: "  requorum token create --cluster prod > token\n  requorum token create --cluster prod --node etcd-3 --ttl 10m",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("ttl") {
				req.Ttl = durationpb.New(ttl.Std())
			}
			req.RequestId = p.request(req.GetRequestId())
			return p.with(c.Context(), func(ctx context.Context, c *client) error { return p.createToken(ctx, c, req) })
		},
	}
	flags := command.Flags()
	// A new cluster has no name to be guessed, so this one is not optional.
	flags.StringVar(&req.Cluster, "cluster", "", "`NAME` of the cluster that nodes join with it")
	timeFlag(flags, &ttl, "ttl", "how long it is good for (default 1h)")
	flags.StringVar(&req.Node, "node", "", "the only `NODE` that may use it; it may also enrol that node again")
	p.requestIDFlag(command, &req.RequestId)
	complete(command, "cluster", p.completeClusters)
	complete(command, "node", p.completeNodes)
	required(command, "cluster")
	return command
}

func (p *program) createToken(ctx context.Context, c *client, req *requorumv1.CreateTokenRequest) error {
	resp, err := change(ctx, c, c.CreateToken, req)
	if err != nil {
		return err
	}
	if p.settings.format != output.Table {
		return output.Message(p.out, p.settings.format, resp)
	}
	if _, err := fmt.Fprintln(p.out, resp.GetToken()); err != nil {
		return err
	}
	who := "the nodes of " + req.GetCluster()
	if req.GetNode() != "" {
		who = "node " + req.GetNode() + " of " + req.GetCluster()
	}
	p.hint("It lets %s join until %s (%s). Put it into a file on the node and start there:\n  requorum agent --controller %s --token-file FILE",
		who, output.Time(resp.GetExpires()), output.Until(resp.GetExpires(), p.now()), c.controller)
	return nil
}

func (p *program) accessCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "access",
		Short:   "Let operators in, and shut them out",
		Long:    "Let operators in, and shut them out: people and programs that use the command line or the API.",
		Example: "  requorum access create --name alice --role operator --out alice/\n  requorum access ls",
	}, p.accessCreate(), p.accessLs(), p.accessRevoke())
}

type accessFlags struct {
	name, role, out string
	ttl             config.Duration
}

func (p *program) accessCreate() *cobra.Command {
	f := &accessFlags{}
	command := &cobra.Command{
		Use:   "create --name NAME --role ROLE --out DIR",
		Short: "Make an operator's certificate and client configuration",
		Long: `Make an operator's key here, let the controller sign a certificate for it, and
write both with the client configuration to a directory. The key never leaves
this machine. Needs the role admin.

Roles:
  viewer    may look
  operator  may also save, check, move, export and restore snapshots, cancel
            operations, and pause, resume and trigger schedules
  admin     may also delete snapshots, apply and remove schedules, let nodes and
            operators in, remove nodes, read the audit log`,
		Example: "  requorum access create --name alice --role operator --out alice/\n  requorum --config alice/requorum.yaml cluster ls",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := names.Check("operator", f.name); err != nil {
				return &UsageError{Err: err}
			}
			role, err := pki.RoleOf(f.role)
			if err != nil {
				return &UsageError{Err: err}
			}
			req := &requorumv1.IssueOperatorCertificateRequest{Name: f.name, Role: role}
			if c.Flags().Changed("ttl") {
				req.Ttl = durationpb.New(f.ttl.Std())
			}
			return p.with(c.Context(), func(ctx context.Context, c *client) error { return p.createAccess(ctx, c, req, f.out) })
		},
	}
	flags := command.Flags()
	flags.StringVar(&f.name, "name", "", "`NAME` of the operator")
	flags.StringVar(&f.role, "role", "", "viewer, operator or admin")
	flags.StringVar(&f.out, "out", "", "`DIR` to write to; made if it is not there")
	timeFlag(flags, &f.ttl, "ttl", "how long the certificate is good for (default one year)")
	complete(command, "role", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"viewer\tmay look", "operator\tmay also save and restore", "admin\tmay everything"}, cobra.ShellCompDirectiveNoFileComp
	})
	required(command, "name", "role", "out")
	return command
}

func (p *program) createAccess(ctx context.Context, c *client, req *requorumv1.IssueOperatorCertificateRequest, dir string) error {
	if err := nothingThere(dir); err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	if req.Csr, err = pki.NewCSR(key); err != nil {
		return err
	}
	resp, err := ask(ctx, c.IssueOperatorCertificate, req, callLimit)
	if err != nil {
		return err
	}
	if err := writeAccess(dir, c.controller, key, resp); err != nil {
		return fmt.Errorf("write to %s: %w", dir, err)
	}
	if p.settings.format != output.Table {
		return output.Message(p.out, p.settings.format, resp)
	}
	_, err = fmt.Fprintf(p.out, "Wrote %s to %s\n", strings.Join(accessFiles, ", "), dir)
	p.hint("try it: requorum --config %s cluster ls", filepath.Join(dir, configFile))
	return err
}

func (p *program) accessLs() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List operators' certificates",
		Long:    "List the certificates of operators that have not expired, with those that are revoked. Needs the role admin.",
		Example: "  requorum access ls\n  requorum access ls -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListOperatorCertificates, &requorumv1.ListOperatorCertificatesRequest{}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("NAME", "ROLE", "ISSUED", "EXPIRES", "REVOKED", "SERIAL")
				for _, cert := range resp.GetCertificates() {
					table.Row(cert.GetName(), pki.RoleName(cert.GetRole()), output.Time(cert.GetIssued()), output.Time(cert.GetExpires()),
						output.Time(cert.GetRevoked()), cert.GetSerial())
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
}

func (p *program) accessRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke SERIAL",
		Short: "Revoke an operator's certificate",
		Long: `Revoke the certificate of that serial number, as requorum access ls shows it. It
is refused from now on, and the calls made with it end. Doing it again does
nothing. Needs the role admin. If no admin is left, remove the directory admin/
of the controller's data directory and restart the controller: it makes a new one.`,
		Example:           "  requorum access revoke 5f1d2c0a9b",
		Args:              takes("SERIAL"),
		ValidArgsFunction: firstArgument(p.completeCertificates),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.RevokeOperatorCertificate, &requorumv1.RevokeOperatorCertificateRequest{Serial: args[0]}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				who := resp.GetCertificate().GetName()
				if who == "" {
					who = "an operator who is not known here"
				}
				_, err = fmt.Fprintf(p.out, "Revoked the certificate %s of %s\n", resp.GetCertificate().GetSerial(), output.Clean(who))
				return err
			})
		},
	}
}

const (
	keyFile    = "client.key"
	certFile   = "client.crt"
	caFile     = "ca.crt"
	configFile = "requorum.yaml"
)

var accessFiles = []string{caFile, certFile, keyFile, configFile}

// nothingThere refuses to write over a key that may be in use.
func nothingThere(dir string) error {
	for _, name := range accessFiles {
		path := filepath.Join(dir, name)
		_, err := os.Lstat(path)
		if err == nil {
			return advised(fmt.Errorf("%s is there already", path), "nothing was written; give another directory with --out")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeAccess(dir, controller string, key crypto.Signer, resp *requorumv1.IssueOperatorCertificateResponse) error {
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return err
	}
	settings, err := yaml.Marshal(clientConfig{Controller: controller, CA: caFile, Cert: certFile, Key: keyFile})
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	contents := map[string][]byte{keyFile: keyPEM, certFile: resp.GetCertificate(), caFile: resp.GetCa(), configFile: settings}
	for _, name := range accessFiles {
		if err := durable.WriteFile(filepath.Join(dir, name), contents[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}
