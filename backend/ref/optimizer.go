package ref

import "math"

// adamW rounds the means before they are used: they are what is stored.
func adamW(x *Values) {
	p := &x.Args.AdamW
	w, m, v := x.Out[0], x.Out[1], x.Out[2]
	lr, b1, b2 := float64(p.LR), float64(p.Beta1), float64(p.Beta2)
	for i, g := range x.In[0] {
		g *= float64(p.Scale)
		m[i] = float64(float32(b1*m[i] + (1-b1)*g))
		v[i] = float64(float32(b2*v[i] + (1-b2)*g*g))
		w[i] -= lr * float64(p.Decay) * w[i]
		w[i] -= lr * (m[i] / float64(p.Correct1)) / (math.Sqrt(v[i]/float64(p.Correct2)) + float64(p.Eps))
	}
}

func sumSquares(x *Values) { x.Out[0][0] = dot(x.In[0], x.In[0]) }
