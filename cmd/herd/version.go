package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/backend/cpu"
)

// build says which herd this is and what it runs on.
type build struct {
	Version  string   `json:"version"`
	Commit   string   `json:"commit"` // empty where the build does not say
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	CPU      string   `json:"cpu"`
	Kernel   string   `json:"kernel"`   // the default
	Variants []string `json:"variants"` // that --kernel takes here
}

func newVersion(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and what runs here",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.printVersion(cmd) },
	}
}

func (c *common) printVersion(cmd *cobra.Command) error {
	b, err := readBuild()
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(cmd.OutOrStdout(), b)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "herd %s\ncommit   %s\ngo       %s %s\ncpu      %s\nkernels  %s (default %s)\n",
		b.Version, cmp.Or(b.Commit, "unknown"), b.Go, b.Platform, b.CPU, strings.Join(b.Variants, " "), b.Kernel)
	return err
}

func readBuild() (build, error) {
	b := build{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Commit = s.Value
			}
		}
	}
	k, err := cpu.New(cpu.Options{})
	if err != nil {
		return b, err
	}
	defer k.Close()
	d := k.Describe()
	b.CPU, b.Kernel, b.Variants = d.CPU, d.Variant, variants()
	return b, nil
}
