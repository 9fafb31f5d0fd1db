package serve

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// detectCommand returns the command that shows how etcd is run.
func detectCommand() *cobra.Command {
	format := output.Table
	c := &cobra.Command{
		Use:   "detect",
		Short: "Show how etcd is run on this node",
		Long: `Show how etcd is run on this node, what an agent would take from there, and
what is missing. Nothing is changed, and no controller is asked.

An agent whose configuration does not say under "runtime" how etcd is run does
the same at its start. It goes on only where there is one etcd and nothing is
missing, and only then does this command end with 0.

Servers of k3s and of RKE2 with etcd are found; that was tested with stand-ins
only, never with k3s or RKE2 itself. Their own --cluster-reset is not used.`,
		Example: "  requorum agent detect\n  requorum agent detect -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			reports := agent.Detect(c.Context())
			if err := showReports(c.OutOrStdout(), format, reports); err != nil {
				return err
			}
			_, err := detect.Choose(reports)
			return err
		},
	}
	c.Flags().VarP(&format, "output", "o", "how to print")
	return c
}

// report is a detect.Report as programs see it.
type report struct {
	Runtime    string      `json:"runtime"`
	Candidates []candidate `json:"candidates"`
	Looked     []string    `json:"looked,omitempty"`
	Error      string      `json:"error,omitempty"`
}

type candidate struct {
	Place        string         `json:"place"`
	Config       map[string]any `json:"config"` // stands under runtime.<runtime>
	Member       found          `json:"member"`
	ControlPlane []string       `json:"control_plane"`
	Missing      []string       `json:"missing"`
}

type found struct {
	Name                string   `json:"name"`
	Version             string   `json:"version"`
	Running             bool     `json:"running"`
	Wanted              bool     `json:"wanted"`
	DataDir             string   `json:"data_dir"`
	WALDir              string   `json:"wal_dir,omitempty"`
	UID                 int      `json:"uid"`
	GID                 int      `json:"gid"`
	ListenClientURLs    []string `json:"listen_client_urls"`
	AdvertiseClientURLs []string `json:"advertise_client_urls"`
	ListenPeerURLs      []string `json:"listen_peer_urls"`
	AdvertisePeerURLs   []string `json:"initial_advertise_peer_urls"`
	QuotaBytes          int64    `json:"quota_backend_bytes"`
	TrustedCAFile       string   `json:"trusted_ca_file,omitempty"`
	CertFile            string   `json:"cert_file,omitempty"`
	KeyFile             string   `json:"key_file,omitempty"`
}

func showReports(w io.Writer, format output.Format, reports []detect.Report) error {
	if format != output.Table {
		views := make([]report, len(reports))
		for i, r := range reports {
			views[i] = view(r)
		}
		return output.Value(w, format, views)
	}
	for _, r := range reports {
		if err := showReport(w, r); err != nil {
			return err
		}
	}
	return nil
}

func view(r detect.Report) report {
	v := report{Runtime: r.Kind, Candidates: []candidate{}, Looked: r.Looked}
	if r.Err != nil {
		v.Error = r.Err.Error()
	}
	for _, c := range r.Candidates {
		v.Candidates = append(v.Candidates, candidate{
			Place: c.Place, Config: c.Config, Member: foundOf(c.Member),
			ControlPlane: append([]string{}, c.ControlPlane...), Missing: append([]string{}, c.Missing...),
		})
	}
	return v
}

func foundOf(m runtime.Member) found {
	return found{
		Name: m.Name, Version: m.Version, Running: m.Running, Wanted: m.Wanted, DataDir: m.DataDir, WALDir: m.WALDir, UID: m.UID, GID: m.GID,
		ListenClientURLs: m.ListenClientURLs, AdvertiseClientURLs: m.AdvertiseClientURLs,
		ListenPeerURLs: m.ListenPeerURLs, AdvertisePeerURLs: m.AdvertisePeerURLs, QuotaBytes: m.QuotaBytes,
		TrustedCAFile: m.TrustedCAFile, CertFile: m.CertFile, KeyFile: m.KeyFile,
	}
}

func showReport(w io.Writer, r detect.Report) error {
	lines := output.NewList(2)
	for _, line := range r.Looked {
		lines.Row(line)
	}
	if r.Err != nil {
		lines.Row("! " + r.Err.Error())
	}
	if _, err := fmt.Fprintf(w, "%s\n", r.Kind); err != nil {
		return err
	}
	if _, err := lines.WriteTo(w); err != nil {
		return err
	}
	for _, c := range r.Candidates {
		if err := showCandidate(w, r.Kind, c); err != nil {
			return err
		}
	}
	return nil
}

func showCandidate(w io.Writer, kind string, c detect.Candidate) error {
	list := output.NewList(2)
	add := func(name, value string) {
		if value != "" {
			list.Row(name+":", value)
		}
	}
	m := c.Member
	add("etcd", c.Place)
	if m.Name != "" {
		add("member", m.Name)
		add("version", m.Version)
		add("running", map[bool]string{true: "yes", false: "no"}[m.Running])
		add("data", m.DataDir)
		add("WAL", m.WALDir)
		add("owner", fmt.Sprintf("%d:%d", m.UID, m.GID))
		add("clients", strings.Join(m.AdvertiseClientURLs, ", "))
		add("peers", strings.Join(m.AdvertisePeerURLs, ", "))
	}
	add("control plane", strings.Join(c.ControlPlane, ", "))
	for _, missing := range c.Missing {
		list.Row("! missing:", missing)
	}
	if _, err := list.WriteTo(w); err != nil {
		return err
	}
	section, err := yaml.Marshal(map[string]any{"runtime": map[string]any{kind: c.Config}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "  to choose it in the agent's configuration:\n    %s\n", strings.ReplaceAll(strings.TrimSpace(string(section)), "\n", "\n    "))
	return err
}
