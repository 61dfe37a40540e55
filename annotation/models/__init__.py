"""Tables of the annotation side, one noun a file.

Columns, constraints and questions about one row; every write stands in a noun module (`prompts.py`, `rankings.py`, …).
Ids that leave the server are random (uuid4): a sequence or a time in them would betray the newer policy.
"""

from annotation.models.assignment import Assignment, AssignmentState, Slot, SlotState
from annotation.models.audit import AuditEvent
from annotation.models.completion import Completion
from annotation.models.membership import Invitation, Membership, Qualification, Role
from annotation.models.project import BOUNDS, Guideline, Project
from annotation.models.prompt import POOLS, Pool, Prompt, PromptProposal, PromptSet, ProposalState
from annotation.models.quality import QualityReport, Suspicion, SuspicionState
from annotation.models.question import Question
from annotation.models.ranking import Demonstration, Ranking, RankingQuerySet, Source, Withdrawal
from annotation.models.snapshot import Snapshot
from annotation.models.task import MEASURING_PURPOSES, TRAINING_PURPOSES, KnownAnswer, Purpose, Task, TaskCompletion

__all__ = [
    "BOUNDS",
    "MEASURING_PURPOSES",
    "POOLS",
    "TRAINING_PURPOSES",
    "Assignment",
    "AssignmentState",
    "AuditEvent",
    "Completion",
    "Demonstration",
    "Guideline",
    "Invitation",
    "KnownAnswer",
    "Membership",
    "Pool",
    "Project",
    "Prompt",
    "PromptProposal",
    "PromptSet",
    "ProposalState",
    "Purpose",
    "Qualification",
    "QualityReport",
    "Question",
    "Ranking",
    "RankingQuerySet",
    "Role",
    "Slot",
    "SlotState",
    "Snapshot",
    "Source",
    "Suspicion",
    "SuspicionState",
    "Task",
    "TaskCompletion",
    "Withdrawal",
]
