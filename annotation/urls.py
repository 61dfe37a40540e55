from django.urls import path

from annotation import (
    known_answer_views,
    manage_views,
    practice_views,
    quality_views,
    question_views,
    views,
    write_views,
)

app_name = "annotation"

urlpatterns = [
    path("projects/<slug:slug>/rank/", views.rank, name="rank"),
    path("projects/<slug:slug>/rank/task/", views.rank_task, name="rank_task"),
    path("projects/<slug:slug>/rank/<uuid:assignment_id>/", views.edit_ranking, name="edit_ranking"),
    path("projects/<slug:slug>/rank/<uuid:assignment_id>/difference/", views.difference, name="difference"),
    path("projects/<slug:slug>/consent/", views.consent, name="consent"),
    path("projects/<slug:slug>/work/", views.work, name="work"),
    path("projects/<slug:slug>/practice/", practice_views.practise, name="practice"),
    path(
        "projects/<slug:slug>/members/qualifications/<int:qualification_id>/again/",
        manage_views.qualification_again,
        name="qualification_again",
    ),
    path("projects/<slug:slug>/questions/", question_views.question_list, name="questions"),
    path("projects/<slug:slug>/questions/<uuid:question_id>/answer/", question_views.answer, name="answer_question"),
    path("projects/<slug:slug>/questions/ask/<uuid:assignment_id>/", question_views.ask, name="ask_question"),
    path("projects/<slug:slug>/write/", write_views.write_answer, name="write_answer"),
    path("projects/<slug:slug>/write/prompt/", write_views.write_prompt, name="write_prompt"),
    path("projects/<slug:slug>/prompts/proposed/", write_views.proposed, name="proposed"),
    path("projects/<slug:slug>/prompts/proposed/decide/", write_views.decide, name="decide"),
    path("projects/<slug:slug>/prompts/", manage_views.prompts, name="prompts"),
    path(
        "projects/<slug:slug>/prompts/<uuid:prompt_set_id>/active/",
        manage_views.prompt_set_active,
        name="prompt_set_active",
    ),
    path("projects/<slug:slug>/members/", manage_views.members, name="members"),
    path("projects/<slug:slug>/members/change/", manage_views.member_change, name="member_change"),
    path(
        "projects/<slug:slug>/members/invitations/<uuid:invitation_id>/revoke/",
        manage_views.invitation_revoke,
        name="invitation_revoke",
    ),
    path("projects/<slug:slug>/settings/", manage_views.settings, name="settings"),
    path("projects/<slug:slug>/archive/", manage_views.archive, name="archive"),
    path("projects/<slug:slug>/guidelines/", manage_views.guidelines, name="guidelines"),
    path("projects/<slug:slug>/quality/", quality_views.quality, name="quality"),
    path(
        "projects/<slug:slug>/quality/suspicions/<uuid:suspicion_id>/",
        quality_views.suspicion_decide,
        name="suspicion_decide",
    ),
    path("projects/<slug:slug>/quality/quarantine/", quality_views.member_quarantine, name="member_quarantine"),
    path("projects/<slug:slug>/quality/withdraw/", quality_views.withdraw, name="withdraw"),
    path(
        "projects/<slug:slug>/quality/withdrawals/<uuid:withdrawal_id>/reverse/",
        quality_views.withdrawal_reverse,
        name="withdrawal_reverse",
    ),
    path("projects/<slug:slug>/quality/known/", known_answer_views.known_answer_list, name="known_answers"),
    path("projects/<slug:slug>/quality/known/<uuid:task_id>/out/", known_answer_views.take_out, name="take_out"),
    path("projects/<slug:slug>/quality/disputes/", quality_views.disputes, name="disputes"),
    path("projects/<slug:slug>/quality/settle/", quality_views.settle, name="settle"),
    path("projects/<slug:slug>/quality/settle/task/", quality_views.settle_task, name="settle_task"),
    path("projects/<slug:slug>/quality/settled/<uuid:ranking_id>/check/", quality_views.make_check, name="make_check"),
    path("invitations/<str:token>/", manage_views.invitation_accept, name="invitation"),
]
