package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
)

// loadPrompt makes a session hold what --prompt-cache has of a prompt: nothing, where the
// file is not there yet or is empty.
func (g *generateFlags) loadPrompt(cmd *cobra.Command, s *llama.Session) error {
	if g.promptCache == "" {
		return nil
	}
	info, err := os.Stat(g.promptCache)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	return s.Load(cmd.Context(), g.promptCache)
}

// savePrompt writes a prompt that the session holds, and more, to --prompt-cache, unless the
// file has just it.
func (g *generateFlags) savePrompt(cmd *cobra.Command, s *llama.Session, ids []int32, loaded int) error {
	if g.promptCache == "" || loaded == len(ids) && s.Usage().ReusedTokens == len(ids)-1 || s.Len() < len(ids) || s.Usage().Shifts > 0 {
		return nil
	}
	if err := s.Truncate(len(ids)); err != nil {
		return err
	}
	return s.Save(cmd.Context(), g.promptCache)
}
