package toolcall

// Looked is how many bytes p has looked at.
func (p *Parser) Looked() int { return p.looked }
