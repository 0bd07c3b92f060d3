package kernel

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// AdamW is the numbers of a step of Op AdamW, as assembly reads them.
type AdamW struct {
	scale, beta1, new1, beta2, new2 float32 // new1 is 1-beta1
	root                            float32 // 1/sqrt(Correct2)
	eps, step, decay                float32 // LR/Correct1, LR*Decay
}

// NewAdamW prepares a step: of the divisions by Correct1 and Correct2 nothing is
// left for the elements.
func NewAdamW(a *backend.AdamWArgs) AdamW {
	return AdamW{
		a.Scale, a.Beta1, 1 - a.Beta1, a.Beta2, 1 - a.Beta2,
		float32(1 / math.Sqrt(float64(a.Correct2))), a.Eps, float32(float64(a.LR) / float64(a.Correct1)), a.LR * a.Decay,
	}
}

// AdamW changes w, m and v by the gradient g, all of the length of w. Every
// operation is rounded, so that all variants give the same bits.
func (s *Set) AdamW(p AdamW, w, m, v, g []float32) {
	if n := len(w); n > 0 {
		s.adamW(p, w, m[:n], v[:n], g[:n])
	}
}

func adamWGeneric(p AdamW, w, m, v, g []float32) {
	for i := range w {
		x := g[i] * p.scale
		m[i] = float32(p.beta1*m[i]) + float32(p.new1*x)
		v[i] = float32(p.beta2*v[i]) + float32(float32(p.new2*x)*x)
		root := float32(float32(math.Sqrt(float64(v[i])))*p.root) + p.eps
		w[i] = w[i] - float32(p.decay*w[i]) - float32(p.step*float32(m[i]/root))
	}
}
