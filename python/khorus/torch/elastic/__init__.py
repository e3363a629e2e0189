"""Training that goes on when a rank is lost: hvd.elastic of Horovod, on the hosts the job has.

    @hvd.elastic.run
    def train(state):
        for state.epoch in range(state.epoch, epochs):
            for state.batch, batch in enumerate(loader, state.batch): ...
                if state.batch % 10 == 0:
                    state.commit()

    train(hvd.elastic.TorchState(model, optimizer, epoch=0, batch=0))

under `khorusrun -np 4 --reset-limit 3`. When a rank ends badly the launcher starts it again. The
others get HorovodInternalError from their next operation; run() takes them back to their last
commit, lets them meet the new process, and calls the function again with the state of the rank that
has committed most. Before run() a program calls no collective but init(): a process that was
started again would call it alone. An error that is not the loss of a rank, such as a mismatch, is
raised as it is.
"""

from khorus.torch.elastic.run import run
from khorus.torch.elastic.sampler import ElasticSampler
from khorus.torch.elastic.state import ObjectState, State, TorchState

__all__ = ["ElasticSampler", "ObjectState", "State", "TorchState", "run"]
