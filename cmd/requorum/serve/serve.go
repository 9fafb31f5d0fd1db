// Package serve holds the commands that run requorum's two roles.
package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/logging"
)

// Controller returns the command that runs the controller.
func Controller() *cobra.Command {
	var (
		file  string
		flags = controller.DefaultConfig()
	)
	c := &cobra.Command{
		Use:   "controller",
		Short: "Run the controller",
		Long: `Run the controller, to which agents and operators connect.

On its first start it makes its CA, and the first admin's certificate with a
client configuration in DATA_DIR/admin/requorum.yaml. Flags come before what
the configuration file says.`,
		Example: "  requorum controller --data-dir /var/lib/requorum/controller --listen :7079\n  requorum controller --config /etc/requorum/controller.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := controller.DefaultConfig()
			if err := load(file, &cfg); err != nil {
				return err
			}
			override(c, map[string]func(){
				"listen": func() { cfg.Listen = flags.Listen }, "data-dir": func() { cfg.DataDir = flags.DataDir },
				"advertise": func() { cfg.Advertise = flags.Advertise }, "log-level": func() { cfg.LogLevel = flags.LogLevel },
				"log-json": func() { cfg.LogJSON = flags.LogJSON },
			})
			cfg.EpochAtLeast = flags.EpochAtLeast
			log, err := logger("controller", cfg.LogLevel, cfg.LogJSON)
			if err != nil {
				return err
			}
			return controller.Run(c.Context(), cfg, log, nil)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration `FILE`, YAML")
	f.StringVar(&flags.Listen, "listen", flags.Listen, "`HOST:PORT` to serve on")
	f.StringVar(&flags.DataDir, "data-dir", flags.DataDir, "`DIR` for journal, catalog and CA")
	f.StringSliceVar(&flags.Advertise, "advertise", nil, "`NAME`s and addresses at which clients reach the controller")
	f.Uint64Var(&flags.EpochAtLeast, "epoch-at-least", 0, "take over from a controller of a lower epoch, after its data came back from an old backup")
	logFlags(c, &flags.LogLevel, &flags.LogJSON)
	return c
}

// Agent returns the command that runs the agent.
func Agent() *cobra.Command {
	var (
		file  string
		flags = agent.DefaultConfig()
	)
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent on an etcd node",
		Long: `Run the agent on an etcd node. It dials the controller; no port opens on the
node for the controller, only one for the node's neighbours.

The first start needs a join token (requorum token create), given by --token,
--token-file or $REQUORUM_TOKEN. The configuration file says how etcd is run
on the node; where it does not, the agent finds out (requorum agent detect).
Flags come before what the file says.`,
		Example: "  requorum agent --config /etc/requorum/agent.yaml --token-file /root/join-token",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg := agent.DefaultConfig()
			if err := load(file, &cfg); err != nil {
				return err
			}
			override(c, map[string]func(){
				"controller": func() { cfg.Controller = flags.Controller }, "node": func() { cfg.Node = flags.Node },
				"data-dir": func() { cfg.DataDir = flags.DataDir }, "token-file": func() { cfg.TokenFile = flags.TokenFile },
				"log-level": func() { cfg.LogLevel = flags.LogLevel }, "log-json": func() { cfg.LogJSON = flags.LogJSON },
			})
			var err error
			if cfg.Token, err = token(flags.Token, cfg.TokenFile); err != nil {
				return err
			}
			log, err := logger("agent", cfg.LogLevel, cfg.LogJSON)
			if err != nil {
				return err
			}
			return agent.Run(c.Context(), cfg, log)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration `FILE`, YAML")
	f.StringVar(&flags.Controller, "controller", "", "`HOST:PORT` of the controller")
	f.StringVar(&flags.Node, "node", "", "`NAME` of this node; the host's if left out")
	f.StringVar(&flags.DataDir, "data-dir", flags.DataDir, "`DIR` for credentials, journal and snapshots")
	f.StringVar(&flags.Token, "token", "", "join `TOKEN`; others can see it in the process list, so better give a file")
	f.StringVar(&flags.TokenFile, "token-file", "", "`FILE` that holds the join token")
	logFlags(c, &flags.LogLevel, &flags.LogJSON)
	c.AddCommand(detectCommand())
	return c
}

func logFlags(c *cobra.Command, level *string, json *bool) {
	c.Flags().StringVar(level, "log-level", "", "what to log on stderr: trace, debug, info, warn or error (info if left out)")
	c.Flags().BoolVar(json, "log-json", false, "log one JSON object a line")
}

func load(file string, into any) error {
	if file == "" {
		return nil
	}
	if err := config.Load(file, into); err != nil {
		return &cli.UsageError{Err: err}
	}
	return nil
}

// override applies the flags that were given.
func override(c *cobra.Command, apply map[string]func()) {
	for name, f := range apply {
		if c.Flags().Changed(name) {
			f()
		}
	}
}

// token returns the join token from the flag, the file or the environment, empty if none has one.
func token(flag, file string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if file == "" {
		return os.Getenv("REQUORUM_TOKEN"), nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // an agent that is enrolled needs none; one that is not says so
	}
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func logger(name, level string, json bool) (hclog.Logger, error) {
	log, err := logging.New(name, logging.Options{Level: level, JSON: json, Output: os.Stderr})
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return log, nil
}
