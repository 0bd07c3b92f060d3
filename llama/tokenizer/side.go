package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
)

// sideFiles is what the files beside a tokenizer.json say. The names of BOS and
// EOS come as a string or as {"content": string}.
type sideFiles struct {
	BOS    json.RawMessage `json:"bos_token"`
	EOS    json.RawMessage `json:"eos_token"`
	AddBOS *bool           `json:"add_bos_token"`
	AddEOS *bool           `json:"add_eos_token"`
	Class  string          `json:"tokenizer_class"`
	Unk    json.RawMessage `json:"unk_token"`
	Pad    json.RawMessage `json:"pad_token"`
	Sep    json.RawMessage `json:"sep_token"`
	Cls    json.RawMessage `json:"cls_token"`
	Mask   json.RawMessage `json:"mask_token"`
	// Decoder are added tokens by their ids; newer files have them here alone.
	Decoder    map[string]hfAdded `json:"added_tokens_decoder"`
	Additional json.RawMessage    `json:"additional_special_tokens"` // a list
	Extra      json.RawMessage    `json:"extra_special_tokens"`      // a list, or an object with names of one's own

	added    map[string]int64 // of added_tokens.json, where Decoder is not given
	bosID    *int32
	stopIDs  []int32
	warnings []string
}

// readSide reads the files beside a tokenizer.json, where they exist.
func readSide(fsys fs.FS, dir string) (side sideFiles, err error) {
	read := func(file string, v any) error {
		data, err := vfs.ReadFile(fsys, path.Join(dir, file), 64<<20)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := jsontext.Unmarshal(data, v); err != nil {
			return &Error{File: path.Join(dir, file), Reason: err.Error()}
		}
		return nil
	}
	var generation struct {
		BOS, EOS json.RawMessage
	}
	var raw map[string]json.RawMessage
	for _, e := range []error{read("tokenizer_config.json", &side), read("generation_config.json", &raw)} {
		if e != nil {
			return side, e
		}
	}
	if side.Decoder == nil { // else the reference does not look at older files
		bos, eos := named(side.BOS).Content, named(side.EOS).Content
		for _, e := range []error{read("special_tokens_map.json", &side), read("added_tokens.json", &side.added)} {
			if e != nil {
				return side, e
			}
		}
		side.compare("BOS", side.BOS, bos)
		side.compare("EOS", side.EOS, eos)
	}
	generation.BOS, generation.EOS = raw["bos_token_id"], raw["eos_token_id"]
	side.stopIDs, err = idList(generation.EOS, path.Join(dir, "generation_config.json"), "eos_token_id")
	if err != nil {
		return side, err
	}
	bos, err := idList(generation.BOS, path.Join(dir, "generation_config.json"), "bos_token_id")
	if len(bos) > 0 {
		side.bosID = &bos[0]
	}
	return side, err
}

// compare warns where special_tokens_map.json, which is stronger, and
// tokenizer_config.json differ.
func (s *sideFiles) compare(what string, raw json.RawMessage, config string) {
	if name := named(raw).Content; name != config && config != "" {
		s.warnings = append(s.warnings, fmt.Sprintf("%s is %.40q, as special_tokens_map.json says; tokenizer_config.json says %.40q", what, name, config))
	}
}

// idList reads a number or a list of numbers; null is the empty list.
func idList(raw json.RawMessage, file, field string) ([]int32, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one int32
	if json.Unmarshal(raw, &one) == nil {
		return []int32{one}, nil
	}
	var many []int32
	if err := jsontext.Unmarshal(raw, &many); err != nil {
		return nil, &Error{File: file, Field: field, Reason: "expected a number or a list of numbers"}
	}
	return many, nil
}

// apply settles BOS and EOS, and what is put around a text: the class of
// tokenizer reads add_bos_token, the plain fast class only its template.
func (s sideFiles) apply(t *Tokenizer, v *vocabulary) specials {
	sp := specials{bos: s.id(v, s.BOS), eos: s.id(v, s.EOS), stop: s.stopIDs, roles: s.roles(v)}
	if sp.bos == nil {
		sp.bos = s.bosID
	}
	if sp.bos == nil && len(t.before) > 0 {
		sp.bos = &t.before[0]
	}
	if sp.eos == nil && len(s.stopIDs) > 0 {
		sp.eos = &s.stopIDs[0]
	}
	guess := func(to **int32, names ...string) {
		for _, name := range names {
			if id, ok := v.ids.find(name); ok && *to == nil && v.kinds[id] == control {
				*to = &id
			}
		}
	}
	guess(&sp.bos, "<|begin_of_text|>", "<s>", "<｜begin▁of▁sentence｜>", "<bos>")
	guess(&sp.eos, "<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>", "<eos>", "<|endoftext|>")
	if s.Class == "PreTrainedTokenizerFast" || s.Class == "TokenizersBackend" {
		return sp
	}
	s.around(t, sp)
	return sp
}

// roles are the ids of the tokens with further roles.
func (s sideFiles) roles(v *vocabulary) map[string]int32 {
	list := map[string]int32{}
	for role, raw := range map[string]json.RawMessage{"unk_token": s.Unk, "pad_token": s.Pad, "sep_token": s.Sep, "cls_token": s.Cls, "mask_token": s.Mask} {
		if id := s.id(v, raw); id != nil {
			list[role] = *id
		}
	}
	return list
}

// around puts BOS and EOS around a text, or takes them away, as add_bos_token and
// add_eos_token say.
func (s sideFiles) around(t *Tokenizer, sp specials) {
	set := func(around *[]int32, add *bool, id *int32) {
		if add != nil && !*add {
			*around = nil
		} else if add != nil && id != nil && len(*around) == 0 {
			*around = []int32{*id}
		}
	}
	set(&t.before, s.AddBOS, sp.bos)
	set(&t.after, s.AddEOS, sp.eos)
}

// id resolves a token given by name.
func (s sideFiles) id(v *vocabulary, raw json.RawMessage) *int32 {
	name := named(raw).Content
	if id, ok := v.ids.find(name); ok && name != "" {
		return &id
	}
	return nil
}

// named is a token that a file gives as a string or as an object; its Content is empty
// for anything else.
func named(raw json.RawMessage) (a hfAdded) {
	if json.Unmarshal(raw, &a.Content) != nil && json.Unmarshal(raw, &a) != nil {
		return hfAdded{}
	}
	return a
}

// special lists the tokens with a role of their own, then the others that are named as
// special, in the order of the reference.
func (s sideFiles) special() (list []hfAdded) {
	all := []json.RawMessage{s.BOS, s.EOS, s.Unk, s.Sep, s.Pad, s.Cls, s.Mask}
	for _, raw := range []json.RawMessage{s.Additional, s.Extra} {
		var more []json.RawMessage
		var byName map[string]json.RawMessage
		if json.Unmarshal(raw, &more) == nil {
			all = append(all, more...)
		} else if json.Unmarshal(raw, &byName) == nil {
			for _, name := range slices.Sorted(maps.Keys(byName)) {
				all = append(all, byName[name])
			}
		}
	}
	for _, raw := range all {
		if a := named(raw); a.Content != "" {
			a.ID, a.Special = -1, true
			list = append(list, a)
		}
	}
	return list
}

// tokens lists the added tokens that the files name beside those of the vocabulary's
// own file, in the order in which the reference adds them: by id, then the special ones,
// whose ids are not given (-1).
func (s sideFiles) tokens(known func(content string) bool) (list []hfAdded, err error) {
	special, isSpecial, seen := s.special(), map[string]bool{}, map[string]bool{}
	for _, a := range special {
		isSpecial[a.Content] = true
	}
	var given []hfAdded
	for key, a := range s.Decoder {
		if a.ID, err = strconv.ParseInt(key, 10, 32); err != nil || a.ID < 0 {
			return nil, fail("added_tokens_decoder", "%.40q is no id", key)
		}
		a.Special = a.Special || isSpecial[a.Content]
		given = append(given, a)
	}
	for content, id := range s.added {
		if id < 0 || id > math.MaxInt32 {
			return nil, fail("added_tokens.json", "token %.40q has the id %d", content, id)
		}
		given = append(given, hfAdded{ID: id, Content: content, Normalized: !isSpecial[content], Special: isSpecial[content]})
	}
	slices.SortFunc(given, func(a, b hfAdded) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Content, b.Content)) })
	for _, a := range append(given, special...) {
		if a.Content != "" && !seen[a.Content] && !known(a.Content) {
			seen[a.Content] = true
			list = append(list, a)
		}
	}
	return list, nil
}

// place gives an added token the id that the reference gives it: that of the
// vocabulary, else the next free one, whatever the files say. beside says that it is in
// no other file.
func (t *Tokenizer) place(a *hfAdded, id int64, beside bool) {
	switch {
	case a.ID >= 0 && a.ID != id:
		t.info.Warnings = append(t.info.Warnings, fmt.Sprintf("token %.40q is %d, the next free id, as the reference has it; the files say %d", a.Content, id, a.ID))
	case beside:
		t.info.Warnings = append(t.info.Warnings, fmt.Sprintf("token %d, %.40q, is in a file beside the vocabulary only", id, a.Content))
	}
	a.ID = id
}
