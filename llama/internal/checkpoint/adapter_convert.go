package checkpoint

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// adapterAt reports whether a path is an adapter's and no model's.
func adapterAt(name string) bool {
	has := func(folder, file string) bool { _, err := os.Stat(filepath.Join(folder, file)); return err == nil }
	switch filepath.Ext(name) {
	case ".gguf":
		f, err := gguf.Open(name)
		if err != nil {
			return false
		}
		defer f.Close()
		kind, err := f.String("general.type")
		return err == nil && kind == "adapter"
	case ".safetensors":
		return has(filepath.Dir(name), "adapter_config.json")
	}
	return has(name, "adapter_config.json") && !has(name, "config.json")
}

// convertAdapter writes an adapter in the other format.
func convertAdapter(ctx context.Context, in, out string, o ConvertOptions) (ConvertReport, error) {
	switch {
	case o.Base == "":
		return ConvertReport{}, Errorf(in, "", "is an adapter: converting it needs the model that it is of, which names its layers (Base)")
	case len(o.Adapters) > 0:
		return ConvertReport{}, Errorf(in, "", "is an adapter: others cannot be merged into it")
	case o.To == string(FormatMeta):
		return ConvertReport{}, &FileError{File: in, Err: fmt.Errorf("an adapter in Meta's format is %w", backend.ErrUnsupported)}
	}
	base, err := Open(ctx, o.Base)
	if err != nil {
		return ConvertReport{}, err
	}
	defer base.Close()
	a, err := OpenAdapter(Adapter{Path: in}, base.Config)
	if err != nil {
		return ConvertReport{}, err
	}
	defer a.Close()
	v := &adapterConverter{in: in, a: a, base: base, o: o}
	if err := ctxerr.Of(ctx); err != nil {
		return ConvertReport{}, err
	}
	if o.To == string(FormatGGUF) {
		err = v.writeGGUF(out)
	} else {
		err = v.writePEFT(out)
	}
	return v.report, err
}

// adapterConverter writes one adapter.
type adapterConverter struct {
	in     string
	a      *OpenedAdapter
	base   *Checkpoint
	o      ConvertOptions
	report ConvertReport
}

// outType is the type that a factor is stored as.
func (v *adapterConverter) outType(s safetensors.Source) backend.DType {
	if v.o.Type != backend.Invalid {
		return v.o.Type
	}
	return s.Type
}

func (v *adapterConverter) note(name string, t backend.DType, shape []int, raw []byte) {
	v.report.Tensors = append(v.report.Tensors, TensorInfo{name, t, shape, int64(len(raw))})
}

func (v *adapterConverter) writePEFT(dir string) error {
	if len(v.a.Whole)+len(v.a.Rows) > 0 {
		return v.refuse("parameters of the model's beside it are not copied")
	}
	modules := make([]peft.Module, len(v.a.Modules))
	for i, m := range v.a.Modules {
		for _, s := range []*safetensors.Source{&m.A, &m.B, &m.Bias, &m.Magnitude} {
			if s.Data == nil {
				continue
			}
			t := v.outType(*s)
			raw, err := floats(*s, 1, t)
			if err != nil {
				return &FileError{File: v.in, Tensor: s.Name, Reason: "cannot be read", Err: err}
			}
			v.note(s.Name, t, s.Shape, raw)
			s.Type, s.Data = t, bytes.NewReader(raw)
		}
		modules[i] = m
	}
	return vfs.WriteFolder(dir, func(dir string) error { return peft.Write(dir, v.a.Config, modules) })
}

func (v *adapterConverter) refuse(what string) error {
	return &FileError{File: v.in, Err: fmt.Errorf("%s: %w", what, backend.ErrUnsupported)}
}

func (v *adapterConverter) writeGGUF(out string) error {
	switch {
	case len(v.a.Whole)+len(v.a.Rows) > 0:
		return v.refuse("GGUF adapters have no parameters of the model's beside them")
	case v.a.Config.DoRA:
		return v.refuse("GGUF adapters have no magnitudes of DoRA")
	case v.a.Config.LoRABias:
		return v.refuse("GGUF adapters have no biases")
	}
	arch := familyLlama
	switch {
	case v.base.Format == FormatGGUF:
		arch = v.base.Architecture
	case v.base.Config.scaled():
		arch = familyGranite
	}
	first := v.a.Modules[0]
	alpha := float32(first.Scale * float64(first.Rank))
	w := &gguf.Writer{}
	for _, k := range []ggufKey{{"general.type", "adapter"}, {"general.architecture", arch}, {"general.name", filepath.Base(v.in)},
		{adapterTypeKey, "lora"}, {adapterAlphaKey, alpha}} {
		if err := w.Set(k.key, k.value); err != nil {
			return err
		}
	}
	if alpha == 0 {
		return v.refuse("a GGUF adapter with a factor of 0 counts once")
	}
	for _, m := range v.a.Modules {
		if err := v.addModule(w, m, alpha); err != nil {
			return err
		}
	}
	return w.WriteFile(out)
}

// addModule writes the factors of one layer. What its own factor is beside alpha/rank goes
// into B.
func (v *adapterConverter) addModule(w *gguf.Writer, m peft.Module, alpha float32) error {
	name, ok := ggufNames.name(m.Name + ".weight")
	if !ok {
		return v.refuse("GGUF has no name for layer " + m.Name)
	}
	factor := float32(m.Scale * float64(m.Rank) / float64(alpha))
	for _, s := range []struct {
		suffix string
		src    safetensors.Source
		factor float32
	}{{factorA, m.A, 1}, {factorB, m.B, factor}} {
		t := v.outType(s.src)
		if s.factor != 1 && v.o.Type == backend.Invalid {
			t = backend.F32
		}
		raw, err := floats(s.src, s.factor, t)
		if err != nil {
			return &FileError{File: v.in, Tensor: s.src.Name, Reason: "cannot be read", Err: err}
		}
		shape := []int{s.src.Shape[0], s.src.Shape[1]}
		switch hd := v.base.Config.HeadDim; {
		case m.Embedding && s.suffix == factorA:
			raw, shape[0], shape[1] = turned(raw, shape[0], shape[1], t.BlockBytes()), shape[1], shape[0]
		case s.suffix == factorB && rotatedHeads(m.Name, v.base.Config) > 0 && !v.base.plainRows:
			raw = reordered(raw, shape[1]*t.BlockBytes(), func(row int) int { return halved(row, hd) })
		}
		v.note(name+s.suffix, t, shape, raw)
		if err := w.Add(name+s.suffix, t, shape, bytes.NewReader(raw)); err != nil {
			return err
		}
	}
	return nil
}
