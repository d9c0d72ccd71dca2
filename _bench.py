import sys,time,torch
from pathlib import Path
from functools import partial
from arch_search.models.loading import *
from arch_search.models.language_model import LanguageModel
from arch_search.models.matching import match_feed_forward
from arch_search.models.stand_in import install
torch.set_num_threads(1)
if len(sys.argv)>1: install()
B=Path('arch_search/models/baselines')
files=[B/f'{n}.py' for n in 'softmax_attention linear_attention gated_linear_attention gated_deltanet mamba2'.split()]+[Path('arch_search/domains/linear_attention/seed_program.py')]
for f in files:
    cls=load_mixer_class(f,None)
    mk=lambda i: build_mixer(cls,d_model=128,n_heads=4,layer_idx=i)
    m=match_feed_forward(mk,vocab=256,d_model=128,n_layers=4,target_parameters=820000)
    lm=LanguageModel(mk,vocab=256,d_model=128,n_layers=4,feed_forward=m.feed_forward)
    n=sum(p.numel() for p in lm.parameters()); assert n==m.parameter_count
    opt=torch.optim.AdamW(lm.parameters(),lr=2e-3,fused=True)
    tok=torch.randint(0,256,(16,257))
    ts=[]
    for s in range(4):
        t=time.process_time()
        l=torch.nn.functional.cross_entropy(lm(tok[:,:-1]).flatten(0,1),tok[:,1:].flatten()); l.backward(); opt.step(); opt.zero_grad()
        ts.append(time.process_time()-t)
    print(f.stem, m, 'ms/step', round(1000*min(ts)), float(l))
